"""Which ways of running a step there are, to be compared with the default one.

Owns: the options of kernels and engine by name.
Does not know: what they cost.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.engine_lab import EngineLab
from benchmarks.gpu.plan import Plan
from motet.core.config import EngineConfig
from motet.kernels.triton_backend import TritonKernels
from motet.kernels.types import Kernels
from motet.models.decoder import Decoder

_GRAPHS = "cuda_graphs"
_SIDE_STREAM = "shrink_beside_product"


@dataclass(frozen=True)
class Variant:
    """Options that differ from the defaults."""

    name: str
    kernels: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def variants() -> list[Variant]:
    """Those whose option exists: without CUDA graphs, and each side of the side stream."""
    found = []
    if _GRAPHS in EngineConfig.__struct_fields__:
        found.append(Variant("no CUDA graphs", config={_GRAPHS: False}))
    if _has_side_stream():
        found += [
            Variant("shrink beside the product", kernels={_SIDE_STREAM: True}),
            Variant("shrink before the product", kernels={_SIDE_STREAM: False}),
        ]
    return found


def make_kernels(options: Mapping[str, Any]) -> Kernels:
    """The Triton kernels with these options."""
    make: Callable[..., Kernels] = TritonKernels
    return make(**options)


def plain_kernels() -> Kernels:
    """Kernels that launch on the current stream alone, so that each can be looked at by itself."""
    return make_kernels({_SIDE_STREAM: False} if _has_side_stream() else {})


def _has_side_stream() -> bool:
    return _SIDE_STREAM in inspect.signature(TritonKernels).parameters


def make_lab(
    plan: Plan, decoder: Decoder, variant: Variant, pool_bytes: int | None, seed: int
) -> EngineLab:
    """An engine with these options.

    Args:
        pool_bytes: of the page pool; None is the engine's default.
        plan, decoder, seed: as for `EngineLab`; a step takes the plan's whole prefill.
    """
    config = EngineConfig(
        max_step_tokens=max(plan.engine.prefill[0], EngineConfig().max_step_tokens),
        pool_memory_bytes=pool_bytes,
        **variant.config,
    )
    return EngineLab(decoder, make_kernels(variant.kernels), config, seed)
