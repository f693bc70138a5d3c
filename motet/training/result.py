"""A trained router on disk: `router_config.json` and `router.safetensors`.

Owns: what is written into them.
Does not know: how it is read; see `adapters/router_config.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from motet.core.routing import RoutingRule
from motet.core.shape import ModelShape
from motet.training.experts import Experts
from motet.training.methods import Method

FORMAT_VERSION = 1
CONFIG_NAME = "router_config.json"
WEIGHTS_NAME = "router.safetensors"


def write_gates(directory: Path, gates: Mapping[str, Tensor]) -> None:
    """Write gates in bfloat16, under the names given; a method without any writes no file."""
    if not gates:
        return
    path = directory / WEIGHTS_NAME
    stored = {name: gate.detach().to(torch.bfloat16).contiguous() for name, gate in gates.items()}
    save_file(stored, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes 0600, and a server may be another user


def write_config(
    directory: Path,
    *,
    method: Method,
    rule: RoutingRule,
    base_name: str,
    shape: ModelShape,
    experts: Experts,
    provenance: Mapping[str, object],
    evaluation: Mapping[str, object],
) -> None:
    """Write the configuration, which makes the directory a routed set."""
    config: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "method": method.value,
        "base_model": {
            "name": base_name,
            "hidden_size": shape.hidden_size,
            "num_layers": shape.num_layers,
        },
        "experts": [
            {"name": name, "digest": digest}
            for name, digest in zip(experts.names, experts.digests, strict=True)
        ],
        "top_k": rule.top_k,
        "temperature": rule.temperature,
        "provenance": dict(provenance),
        "evaluation": dict(evaluation),
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (directory / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
