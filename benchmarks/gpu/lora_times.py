"""How near do shrink and expand come to the time of their bytes?

Owns: the batches, and the bytes of their floor.

One measurement is all shrinks and expands of one step, layer by layer, without what stands between
them in a model. Decode must read the rank rows of each distinct adapter once; what it reads and
writes of activations is small and just came from the layer before, so it is not counted. Prefill
must also read x, write and read v, and read and write y.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.lora_pool import (
    SIBLINGS,
    build_pairs,
    build_pool,
    model_geometry,
    random_adapter,
    row_elems,
    side_by_side,
    uniform_ranks,
)
from benchmarks.gpu.parts import Case
from benchmarks.gpu.results import Figure
from benchmarks.gpu.timing import device_times_s
from motet.core.shape import ModelShape
from motet.kernels.types import LoraPairs
from motet.memory.device_pool import DevicePool

_LAUNCHES_PER_LAYER = 2 * len(SIBLINGS)


def lora_time_cases(bench: Bench) -> Iterator[Case]:
    """Decode by number of sequences and adapters, mixed ranks, and prefill."""
    plan = bench.plan.kernels
    for num_seqs, num_adapters in plan.lora_decodes:
        name = f"lora decode, {num_seqs} sequences on {num_adapters} adapters of rank {plan.rank}"
        ranks = [plan.rank] * num_adapters
        yield Case(name, partial(_decode, bench, name, num_seqs, ranks))
    low, high = min(plan.mixed_ranks), max(plan.mixed_ranks)
    mixed = [plan.mixed_ranks[i % len(plan.mixed_ranks)] for i in range(plan.num_mixed)]
    name = f"lora decode, {plan.num_mixed} adapters of ranks {low} to {high}"
    yield Case(name, partial(_decode, bench, name, plan.num_mixed, mixed))
    for ranks in ([low] * plan.num_mixed, [low] * (plan.num_mixed - 1) + [high]):
        name = f"lora decode, {plan.num_mixed} adapters of rank {low}, the last of {ranks[-1]}"
        yield Case(name, partial(_decode, bench, name, plan.num_mixed, ranks))
    num_tokens, num_adapters = plan.prefill
    name = f"lora prefill, {num_tokens} tokens on {num_adapters} adapters of rank {plan.rank}"
    yield Case(name, partial(_prefill, bench, name))


def _decode(bench: Bench, name: str, num_seqs: int, ranks: Sequence[int]) -> list[Figure]:
    """`num_seqs` tokens, dealt out evenly to adapters of these ranks."""
    shape, dtype = bench.plan.config.shape, bench.plan.dtype
    num_elems = sum(row_elems(shape, uniform_ranks(shape, rank)) for rank in ranks)
    num_bytes = num_elems * dtype.itemsize
    num_steps = bench.num_copies(num_bytes)
    pool = _build(bench, list(ranks) * num_steps)
    counts = [
        num_seqs * (i + 1) // len(ranks) - num_seqs * i // len(ranks) for i in range(len(ranks))
    ]
    batches = []
    for step in range(num_steps):  # each on adapters of its own
        segments = [(step * len(ranks) + i, count) for i, count in enumerate(counts)]
        batches.append(build_pairs(segments, torch.arange(num_seqs), max(ranks), bench.device))
    return [_figure(bench, name, pool, batches, num_bytes)]


def _prefill(bench: Bench, name: str) -> list[Figure]:
    plan, shape = bench.plan.kernels, bench.plan.config.shape
    num_tokens, num_adapters = plan.prefill
    pool = _build(bench, [plan.rank] * num_adapters)
    segments = [(slot, num_tokens // num_adapters) for slot in range(num_adapters)]
    pairs = build_pairs(segments, torch.arange(num_tokens), plan.rank, bench.device)
    num_bytes = prefill_bytes(shape, num_tokens, num_adapters, plan.rank, bench.plan.dtype)
    return [_figure(bench, name, pool, [pairs], num_bytes)]


def prefill_bytes(
    shape: ModelShape, num_tokens: int, num_adapters: int, rank: int, dtype: torch.dtype
) -> int:
    """What separate shrinks and expands of one prefill must move: rows, x, v twice, y twice."""
    num_elems = num_adapters * row_elems(shape, uniform_ranks(shape, rank))
    num_v_elems = 0
    for modules in SIBLINGS:
        width_out = sum(shape.out_features(module) for module in modules)
        width = shape.in_features(modules[0]) + 2 * width_out
        num_elems += shape.num_layers * num_tokens * width
        num_v_elems += shape.num_layers * num_tokens * len(modules) * rank
    return num_elems * dtype.itemsize + 2 * num_v_elems * 4


def _build(bench: Bench, ranks: Sequence[int]) -> DevicePool:
    """Adapters on all projections; those of one rank are copies of one another."""
    shape, device = bench.plan.config.shape, bench.device
    geometry = model_geometry(shape)
    generator = torch.Generator(device).manual_seed(bench.seed)
    packed = {
        rank: random_adapter(
            geometry, uniform_ranks(shape, rank), bench.plan.dtype, generator
        ).packed
        for rank in set(ranks)
    }
    return build_pool(geometry, [packed[rank] for rank in ranks], device)


def _figure(
    bench: Bench, name: str, pool: DevicePool, batches: Sequence[LoraPairs], num_bytes: int
) -> Figure:
    """The share of the copy bandwidth that one step reaches."""
    works = _works(bench, pool, batches)
    medians_s = {
        kind: statistics.median(device_times_s(work, bench.device, bench.plan.kernels.num_rounds))
        / len(batches)
        for kind, work in works.items()
    }
    floor_s = bench.floor_s(num_bytes)
    num_launches = bench.plan.config.shape.num_layers * _LAUNCHES_PER_LAYER
    return Figure(
        name=name,
        value=floor_s / medians_s["both"],
        floor=1.0,
        target=bench.bandwidth_target(num_bytes, num_launches),
        at_least=True,
        details={
            "us_of_a_step": {kind: round(time_s * 1e6, 1) for kind, time_s in medians_s.items()},
            "floor_us": round(floor_s * 1e6, 1),
            "bytes": num_bytes,
            "num_launches": num_launches,
        },
    )


def _works(
    bench: Bench, pool: DevicePool, batches: Sequence[LoraPairs]
) -> dict[str, Callable[[], None]]:
    """All shrinks, all expands, and both in turns, of one step for each batch."""
    shape, kernels = bench.plan.config.shape, bench.kernels
    num_tokens = batches[0].num_pairs
    groups = [side_by_side(shape, modules) for modules in SIBLINGS]
    xs = [pool.data.new_ones(num_tokens, shape.in_features(each[0])) for each in SIBLINGS]
    ys = [pool.data.new_zeros(num_tokens, sum(p.out_features for p in each)) for each in groups]

    def shrink(pairs: LoraPairs, layer: int, group: int) -> Tensor:
        return kernels.shrink(xs[group], pool.data, pool.tables, pairs, layer, groups[group])

    def expand(v: Tensor, pairs: LoraPairs, layer: int, group: int) -> None:
        kernels.expand(v, pool.data, pool.tables, pairs, layer, groups[group], ys[group])

    def for_all(launch: Callable[[LoraPairs, int, int], object]) -> None:
        for pairs in batches:
            for layer in range(shape.num_layers):
                for group in range(len(groups)):
                    launch(pairs, layer, group)

    shrunk = [shrink(batches[0], 0, group) for group in range(len(groups))]
    return {
        "shrink": lambda: for_all(shrink),
        "expand": lambda: for_all(lambda p, layer, g: expand(shrunk[g], p, layer, g)),
        "both": lambda: for_all(lambda p, layer, g: expand(shrink(p, layer, g), p, layer, g)),
    }
