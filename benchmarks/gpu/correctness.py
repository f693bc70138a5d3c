"""Is every Triton kernel right on this device?

Owns: the order of the checks.
"""

from collections.abc import Iterator

import torch

from benchmarks.gpu.check_attention import attention_cases
from benchmarks.gpu.check_fused import fused_cases
from benchmarks.gpu.check_lora import lora_cases
from benchmarks.gpu.check_routing import routing_cases
from benchmarks.gpu.parts import Case
from benchmarks.gpu.plan import Plan
from motet.kernels.types import Kernels


def correctness_cases(
    plan: Plan, kernels: Kernels, device: torch.device, seed: int
) -> Iterator[Case]:
    """Each kernel of `types.Kernels` against float64, on random inputs, dtype by dtype."""
    for dtype in plan.check.dtypes:
        generator = torch.Generator(device).manual_seed(seed)
        for cases in (lora_cases, routing_cases, fused_cases, attention_cases):
            yield from cases(plan, kernels, dtype, generator)
