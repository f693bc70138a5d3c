"""A trained router on disk: `router_config.json` and `router.safetensors`.

Owns: what a run puts into them.
Does not know: their format, which is `adapters/router_config.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from motet.adapters.router_config import (
    ROUTER_WEIGHTS_NAME,
    BaseModelRef,
    ExpertRef,
    RouterConfig,
    check_router_config,
    write_router_config,
)
from motet.core.routing import RoutingRule
from motet.core.shape import ModelShape
from motet.training.experts import Experts
from motet.training.methods import Method


def config_of(
    method: Method, rule: RoutingRule, base_name: str, shape: ModelShape, experts: Experts
) -> RouterConfig:
    """The configuration of a router that is yet to be made.

    Raises:
        AdapterError: no server would load it: an expert's name cannot be an adapter's, or there
            are too many.
    """
    config = RouterConfig(
        method=method.value,
        rule=rule,
        base=BaseModelRef(base_name, shape.hidden_size, shape.num_layers),
        experts=tuple(map(ExpertRef, experts.names, experts.digests)),
    )
    check_router_config(config)
    return config


def as_stored(gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gates as their file has them, in bfloat16."""
    return {name: gate.detach().to(torch.bfloat16).contiguous() for name, gate in gates.items()}


def write_result(directory: Path, config: RouterConfig, stored: Mapping[str, Tensor]) -> None:
    """Write both files, which make the directory a routed set; a method without gates has one.

    Args:
        stored: of `as_stored`, by their names in the file.
    """
    path = directory / ROUTER_WEIGHTS_NAME
    if stored:
        save_file(dict(stored), path, metadata={"format": "pt"})
        path.chmod(0o644)  # safetensors writes 0600, and a server may be another user
    else:
        path.unlink(missing_ok=True)  # those of another method's run
    write_router_config(directory, config)
