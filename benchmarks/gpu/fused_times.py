"""How near do the kernels between the matrix products come to the time of their bytes?

Owns: the batches, and the bytes that each kernel must read and write.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Case
from benchmarks.gpu.results import Figure
from benchmarks.gpu.timing import device_times_s
from motet.kernels.types import HeadTransform

_PAGE_SIZE = 16
_NUM_LAUNCHES = 32  # in one measurement: one alone is shorter than the clock is sharp


@dataclass(frozen=True)
class _Work:
    """A launch, and the elements that it must move."""

    launch: Callable[[], object]
    num_elems: int


def fused_time_cases(bench: Bench) -> Iterator[Case]:
    """Each kernel, by number of tokens."""
    makes = {"add_rms_norm": _norm, "silu_mul": _silu, "rotate_and_write_kv": _rotate}
    for num_tokens in bench.plan.kernels.num_fused_tokens:
        for kind, make in makes.items():
            name = f"{kind}, {num_tokens} tokens"
            yield Case(name, partial(_time, bench, name, make, num_tokens))


def _time(
    bench: Bench, name: str, make: Callable[[Bench, int], _Work], num_tokens: int
) -> list[Figure]:
    work = make(bench, num_tokens)

    def launch_all() -> None:
        for _ in range(_NUM_LAUNCHES):
            work.launch()

    times_s = device_times_s(launch_all, bench.device, bench.plan.kernels.num_rounds)
    launch_s = statistics.median(times_s) / _NUM_LAUNCHES
    num_bytes = work.num_elems * bench.plan.dtype.itemsize
    figure = Figure(
        name=name,
        value=bench.floor_s(num_bytes) / launch_s,
        floor=1.0,
        target=bench.bandwidth_target(num_bytes, num_launches=1),
        at_least=True,
        details={"us": round(launch_s * 1e6, 2), "bytes": num_bytes},
    )
    return [figure]


def _norm(bench: Bench, num_tokens: int) -> _Work:
    """Reads and writes the residual, reads the delta, writes the normed rows."""
    size = bench.plan.config.shape.hidden_size
    residual, delta = _random(bench, 2, num_tokens, size)
    weight = _random(bench, size)
    return _Work(
        lambda: bench.kernels.add_rms_norm(residual, delta, weight, 1e-5), 4 * residual.numel()
    )


def _silu(bench: Bench, num_tokens: int) -> _Work:
    """Reads gate and up, writes their product."""
    size = bench.plan.config.shape.intermediate_size
    gate_up = _random(bench, num_tokens, 2 * size)
    return _Work(lambda: bench.kernels.silu_mul(gate_up), 3 * num_tokens * size)


def _rotate(bench: Bench, num_tokens: int) -> _Work:
    """Reads q, k and v; writes q and k in place, and k and v to their pages."""
    shape = bench.plan.config.shape
    num_heads = shape.num_heads + 2 * shape.num_kv_heads
    qkv = _random(bench, num_tokens, num_heads, shape.head_dim)
    rotary = _random(bench, shape.head_dim, 2, shape.head_dim // 2)
    transform = HeadTransform(norm=None, eps=1e-5, rotary=rotary)
    positions = torch.randint(len(rotary), (num_tokens,), device=bench.device)
    num_pages = 1 + num_tokens // _PAGE_SIZE
    pool = _random(bench, 1, num_pages, 2 * _PAGE_SIZE * shape.kv_size)
    kv_slots = torch.randperm(num_pages * _PAGE_SIZE, device=bench.device)[:num_tokens]

    def launch() -> None:
        bench.kernels.rotate_and_write_kv(
            qkv, transform, positions, pool, 0, kv_slots, _PAGE_SIZE, shape.num_kv_heads
        )

    return _Work(launch, 2 * num_tokens * (num_heads + shape.num_kv_heads // 2) * shape.head_dim)


def _random(bench: Bench, *size: int) -> Tensor:
    return torch.randn(size, device=bench.device).to(bench.plan.dtype)
