"""The checks hold for right kernels, and each kind of mistake breaks the one that it should."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu.correctness import correctness_cases
from benchmarks.gpu.errors import roundoff, unequal, worst_error
from benchmarks.gpu.plans import TINY
from benchmarks.gpu.results import Check
from motet.kernels.reference_backend import ReferenceKernels

SEED = 11


def run_checks(kernels: ReferenceKernels) -> dict[str, Check]:
    cases = correctness_cases(TINY, kernels, torch.device("cpu"), SEED)
    checks = [result for case in cases for result in case.run()]
    return {check.name: check for check in checks if isinstance(check, Check)}


def test_the_references_are_right_in_every_dtype() -> None:
    checks = run_checks(ReferenceKernels())
    assert {name: check.worst for name, check in checks.items() if not check.holds} == {}
    dtypes = {name.split(", ")[-1].split(":")[0] for name in checks}
    assert dtypes == {"float16", "float32"}


def broken(method: str, change: Callable[..., Any]) -> ReferenceKernels:
    """Kernels of which one is called through `change(kernel, *arguments)`."""
    kernels = ReferenceKernels()
    kernel = getattr(kernels, method)
    setattr(kernels, method, lambda *arguments: change(kernel, *arguments))
    return kernels


def shrink_less(kernel: Any, x: Tensor, *rest: Any) -> Tensor:
    """The last column of A is left out."""
    x = x.clone()
    x[:, -1] = 0.0
    return kernel(x, *rest)


def shrink_forgets(kernel: Any, *arguments: Any) -> Tensor:
    """The last pair is not written."""
    v = kernel(*arguments)
    v[..., -1, :, :] = torch.nan
    return v


def expand_twice(kernel: Any, *arguments: Any) -> None:
    kernel(*arguments)
    kernel(*arguments)


def expand_without_weights(kernel: Any, v: Tensor, *rest: Any) -> None:
    kernel(v * 1.01, *rest)


def expand_elsewhere(kernel: Any, *arguments: Any) -> None:
    """Every row of y is read and written, also those of base tokens."""
    kernel(*arguments)
    arguments[-1].add_(1e-3)


def route_to_the_first(
    kernel: Any, x: Tensor, pool: Tensor, tables: Any, routed: Any, *rest: Any
) -> Any:
    """All experts of a set are its first one."""
    first = routed.expert_slots[:, :1].expand_as(routed.expert_slots).contiguous()
    return kernel(x, pool, tables, replace(routed, expert_slots=first), *rest)


def route_untold(kernel: Any, x: Tensor, pool: Tensor, tables: Any, routed: Any, *rest: Any) -> Any:
    """Nothing is added to the usage."""
    aside = replace(routed, usage=routed.usage.clone())
    return kernel(x, pool, tables, aside, *rest)


def norm_without_sum(kernel: Any, residual: Tensor, delta: Any, *rest: Any) -> Tensor:
    """The stream is left as it was."""
    return kernel(residual.clone(), delta, *rest)


def norm_of_less(kernel: Any, residual: Tensor, delta: Any, weight: Tensor, eps: float) -> Tensor:
    return kernel(residual, delta, weight, eps) * 1.01


def silu_of_up(kernel: Any, gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return kernel(torch.cat((up, gate), dim=-1))


def rotate_backwards(
    kernel: Any, qkv: Tensor, transform: Any, positions: Tensor, *rest: Any
) -> None:
    kernel(qkv, transform, positions.flip(0), *rest)


def write_kv_astray(kernel: Any, *arguments: Any) -> None:
    """The last token's KV goes to the first token's slot."""
    *front, kv_slots, page_size, num_kv_heads = arguments
    kv_slots = torch.cat((kv_slots[:-1], kv_slots[:1]))
    kernel(*front, kv_slots, page_size, num_kv_heads)


def write_padding(kernel: Any, *arguments: Any) -> None:
    """The KV of a token without a slot goes to the first one."""
    *front, kv_slots, page_size, num_kv_heads = arguments
    kernel(*front, kv_slots.clamp(min=0), page_size, num_kv_heads)


def attend_evenly(kernel: Any, q: Tensor, *rest: Any) -> Tensor:
    """A flatter softmax."""
    return kernel(q * 0.5, *rest)


def attend_without_window(kernel: Any, *arguments: Any) -> Tensor:
    return kernel(*arguments[:-1], None)


@pytest.mark.parametrize(
    ("method", "change", "name"),
    [
        ("shrink", shrink_less, "shrink"),
        ("shrink", shrink_forgets, "lora"),  # and expand can make nothing of it
        ("expand", expand_twice, "expand"),
        ("expand", expand_without_weights, "expand"),
        ("expand", expand_elsewhere, "expand"),
        ("shrink_routed", route_to_the_first, "routed"),
        ("shrink_routed", route_untold, "usage"),
        ("add_rms_norm", norm_without_sum, "add_rms_norm"),
        ("add_rms_norm", norm_of_less, "add_rms_norm"),
        ("silu_mul", silu_of_up, "silu_mul"),
        ("rotate_and_write_kv", rotate_backwards, "rotate_and_write_kv"),
        ("rotate_and_write_kv", write_kv_astray, "rotate_and_write_kv"),
        ("rotate_and_write_kv", write_padding, "rotate_and_write_kv"),
        ("paged_attention", attend_evenly, "attention"),
        ("paged_attention", attend_without_window, "window"),
    ],
)
def test_a_wrong_kernel_is_found_and_no_other(
    method: str, change: Callable[..., Any], name: str
) -> None:
    checks = run_checks(broken(method, change))
    wrong = {each for each, check in checks.items() if not check.holds}
    assert wrong
    assert all(name in each for each in wrong)
    for dtype in ("float16", "float32"):
        assert any(dtype in each for each in wrong)


def test_the_worst_error_is_over_each_elements_tolerance() -> None:
    want = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    tolerance = torch.tensor([0.5, 0.1, 0.0], dtype=torch.float64)
    assert worst_error(torch.tensor([1.25, 2.0, 3.0]), want, tolerance) == 0.5
    assert worst_error(torch.tensor([1.0, 2.2, 3.0]), want, tolerance) == pytest.approx(2.0, 1e-5)
    assert worst_error(torch.tensor([1.0, 2.0, 3.5]), want, tolerance) == float("inf")
    assert worst_error(torch.tensor([1.0, torch.nan, 3.0]), want, tolerance) == float("inf")


def test_equality_is_bit_by_bit() -> None:
    nan = torch.full((4,), torch.nan, dtype=torch.bfloat16)
    assert unequal(nan, nan.clone()) == 0.0
    assert unequal(torch.tensor([0.0]), torch.tensor([-0.0])) == float("inf")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_rounding_is_within_a_roundoff(dtype: torch.dtype) -> None:
    values = torch.rand(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    error = (values.to(dtype).double() - values).abs() / values
    assert 0.9 * roundoff(dtype) < error.max() <= roundoff(dtype)
