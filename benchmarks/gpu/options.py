"""Which ways of running a step there are, to be compared with the default one.

Owns: the options of kernels and engine by name.
Does not know: what they cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu.engine_lab import EngineLab
from benchmarks.gpu.plan import Plan
from motet.core.config import EngineConfig
from motet.kernels.triton_backend import TritonKernels
from motet.kernels.types import Kernels
from motet.models.decoder import Decoder


@dataclass(frozen=True)
class Variant:
    """Options that differ from the defaults.

    Attributes:
        kernels: arguments of `TritonKernels`.
        config: fields of `EngineConfig`.
    """

    name: str
    kernels: Mapping[str, bool] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def make_kernels(self) -> Kernels:
        return TritonKernels(**self.kernels)


def variants(device: torch.device) -> list[Variant]:
    """Those that the device can run, one option each: a CPU has no streams."""
    found = [Variant("no CUDA graphs", config={"cuda_graphs": False})]
    if device.type == "cuda":
        found.append(Variant("shrink beside the product", kernels={"shrink_beside_product": True}))
    return found


def plain_kernels() -> Kernels:
    """Kernels that launch on the current stream alone, so that each can be looked at by itself."""
    return TritonKernels(shrink_beside_product=False)


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
    return EngineLab(decoder, variant.make_kernels(), config, seed)
