"""Are the kernels between the matrix products right at real shapes?

Owns: their batches and float64 references.

A tolerance has one roundoff u of the dtype for each rounding that the kernels' contract names,
besides the error e = 2^-19 of sums in float32.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.errors import (
    SUM_ERROR,
    poison_free_memory,
    roundoff,
    smallest,
    unequal,
    worst_error,
)
from benchmarks.gpu.parts import Case
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Check
from motet.core.shape import ModelShape
from motet.kernels.types import HeadTransform, Kernels

_EPS = 1e-5
_PAGE_SIZE = 16
_NUM_POSITIONS = 4096


@dataclass(frozen=True)
class _Inputs:
    """What the checks of one dtype are made from."""

    shape: ModelShape
    kernels: Kernels
    dtype: torch.dtype
    generator: torch.Generator

    def random(self, *size: int) -> Tensor:
        values = torch.randn(size, generator=self.generator, device=self.generator.device)
        return values.to(self.dtype)


def fused_cases(
    plan: Plan, kernels: Kernels, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[Case]:
    """Each kernel, over all numbers of tokens."""
    checks: dict[str, tuple[Callable[[_Inputs, int], float], str]] = {
        "add_rms_norm": (_norm_error, "(2 u + e) |y|; the sum bit by bit"),
        "silu_mul": (_silu_error, "(2 u + e) |y|"),
        "rotate_and_write_kv": (
            partial(_rotate_error, is_normed=False),
            "u |y| + e (|x cos| + |x' sin|); KV bit by bit",
        ),
        "rotate_and_write_kv with norm": (
            partial(_rotate_error, is_normed=True),
            "u |y| + (2 u + e) (|x cos| + |x' sin|); KV bit by bit",
        ),
    }
    inputs = _Inputs(plan.config.shape, kernels, dtype, generator)
    for name, (error, tolerance) in checks.items():
        title = f"{name}, {str(dtype).removeprefix('torch.')}"
        run = partial(_check, title, tolerance, error, inputs, plan.check.num_fused_tokens)
        yield Case(title, run)


def _check(
    title: str,
    tolerance: str,
    error: Callable[[_Inputs, int], float],
    inputs: _Inputs,
    token_counts: Sequence[int],
) -> list[Check]:
    worst = max(error(inputs, num_tokens) for num_tokens in token_counts)
    return [Check(name=title, worst=worst, tolerance=tolerance)]


def _norm_error(inputs: _Inputs, num_tokens: int) -> float:
    size = inputs.shape.hidden_size
    weight = inputs.random(size)
    worst = 0.0
    for delta in (inputs.random(num_tokens, size), None):
        residual = inputs.random(num_tokens, size)
        total = residual.clone() if delta is None else residual + delta
        wide = total.double()
        mean_square = wide.square().mean(-1, keepdim=True)
        want = wide / (mean_square + _EPS).sqrt() * weight.double()
        poison_free_memory(total.device, total.numel() * total.element_size())
        got = inputs.kernels.add_rms_norm(residual, delta, weight, _EPS)
        tolerance = (roundoff(got.dtype, 2) + SUM_ERROR) * want.abs() + smallest(got.dtype)
        worst = max(worst, worst_error(got, want, tolerance), unequal(residual, total))
    return worst


def _silu_error(inputs: _Inputs, num_tokens: int) -> float:
    gate_up = inputs.random(num_tokens, 2 * inputs.shape.intermediate_size) * 3
    gate, up = gate_up.double().chunk(2, dim=-1)
    want = torch.nn.functional.silu(gate) * up
    poison_free_memory(gate_up.device, gate_up.numel() // 2 * gate_up.element_size())
    got = inputs.kernels.silu_mul(gate_up)
    relative = roundoff(got.dtype, 2) + SUM_ERROR
    # The rounding of a silu near zero is multiplied, too.
    tolerance = relative * want.abs() + smallest(got.dtype) * (1 + up.abs())
    return worst_error(got, want, tolerance)


def _rotate_error(inputs: _Inputs, num_tokens: int, *, is_normed: bool) -> float:
    shape, device = inputs.shape, inputs.generator.device
    num_turned = shape.num_heads + shape.num_kv_heads  # heads of q and k
    qkv = inputs.random(num_tokens, num_turned + shape.num_kv_heads, shape.head_dim)
    before = qkv.clone()
    rotary = _rotary_table(shape.head_dim, inputs)
    norm = inputs.random(num_turned, shape.head_dim) if is_normed else None
    positions = torch.randint(_NUM_POSITIONS, (num_tokens,), device=device)
    num_pages = 2 + num_tokens // _PAGE_SIZE
    kv_slots = torch.randperm(num_pages * _PAGE_SIZE, device=device)[:num_tokens]
    kv_slots[1::3] = -1  # padding of a captured step: stored nowhere
    page_elems = 2 * _PAGE_SIZE * shape.kv_size
    pool = torch.full((2, num_pages, page_elems), torch.nan, dtype=inputs.dtype, device=device)
    expected_pool = pool.clone()

    inputs.kernels.rotate_and_write_kv(
        qkv,
        HeadTransform(norm=norm, eps=_EPS, rotary=rotary),
        positions,
        pool,
        1,
        kv_slots,
        _PAGE_SIZE,
        shape.num_kv_heads,
    )

    want, absolutes = _rotated(before[:, :num_turned], norm, rotary[positions])
    inner = (SUM_ERROR + (roundoff(inputs.dtype, 2) if is_normed else 0.0)) * absolutes
    tolerance = roundoff(inputs.dtype) * (want.abs() + inner) + inner + smallest(inputs.dtype)
    pages = expected_pool[1].view(num_pages, 2, _PAGE_SIZE, shape.num_kv_heads, shape.head_dim)
    stored = qkv[:, shape.num_heads :].view(num_tokens, *pages.shape[1:2], *pages.shape[3:])
    is_stored = kv_slots >= 0
    slots = kv_slots[is_stored]
    pages[slots // _PAGE_SIZE, :, slots % _PAGE_SIZE] = stored[is_stored]
    return max(
        worst_error(qkv[:, :num_turned], want, tolerance),
        unequal(qkv[:, num_turned:].contiguous(), before[:, num_turned:].contiguous()),
        unequal(pool, expected_pool),
    )


def _rotated(x: Tensor, norm: Tensor | None, cos_sin: Tensor) -> tuple[Tensor, Tensor]:
    """float64: the heads after norm and rotation, and the absolutes of what was added up."""
    wide = x.double()
    if norm is not None:
        wide = wide / (wide.square().mean(-1, keepdim=True) + _EPS).sqrt() * norm.double()
    cos, sin = cos_sin.double()[:, :, None].unbind(1)
    low, high = wide.chunk(2, dim=-1)
    turned = torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
    absolutes = torch.cat(((low * cos).abs() + (high * sin).abs(),) * 2, -1)
    absolutes[..., low.shape[-1] :] = (high * cos).abs() + (low * sin).abs()
    return turned, absolutes


def _rotary_table(head_dim: int, inputs: _Inputs) -> Tensor:
    """[positions, 2, head_dim / 2]: cosines and sines of random angles."""
    size = (_NUM_POSITIONS, head_dim // 2)
    angles = 100 * torch.rand(size, generator=inputs.generator, device=inputs.generator.device)
    return torch.stack((angles.cos(), angles.sin()), dim=1).to(inputs.dtype)
