"""What does a routed set cost a step, beside one adapter that is named?

Owns: the batches, and the layouts that are compared.

One measurement is all routed shrinks and their expands of one step, layer by layer, over all
shrinks and expands of a step in which the same tokens use one adapter of the same rank. Each layout
is forced in turn; which one a server takes is `routing_triton.layout_of`.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.lora_pool import SIBLINGS, build_pairs, side_by_side
from benchmarks.gpu.parts import Case
from benchmarks.gpu.results import Figure
from benchmarks.gpu.routed_batch import TOP_K, RoutedBatch, routed_batch
from benchmarks.gpu.timing import device_times_s
from motet.kernels import lora_triton, routing_triton
from motet.kernels.routing_triton import Layout, layout_of
from motet.kernels.routing_triton_stack import most_rows
from motet.kernels.types import LoraPairs, LoraTables, Projection

_Launch = Callable[
    [Tensor, Tensor, LoraTables, int, tuple[Projection, ...]], tuple[Tensor, LoraPairs]
]


def routing_time_cases(bench: Bench) -> Iterator[Case]:
    """By number of experts and of tokens."""
    plan = bench.plan.kernels
    for num_experts in plan.routed_experts:
        for num_tokens in plan.routed_tokens:
            experts = f"top {TOP_K} of {num_experts} experts of rank {plan.routed_rank}"
            name = f"routed, {num_tokens} tokens, {experts}"
            yield Case(name, partial(_time, bench, name, num_tokens, num_experts))


def _time(bench: Bench, name: str, num_tokens: int, num_experts: int) -> list[Figure]:
    plan, rank = bench.plan.kernels, bench.plan.kernels.routed_rank
    generator = torch.Generator(bench.device).manual_seed(bench.seed)
    batch = routed_batch(
        bench.plan.config.shape,
        ["experts"],
        num_tokens,
        num_experts,
        rank,
        bench.plan.dtype,
        generator,
    )
    routed = batch.routed
    named = build_pairs([(1, num_tokens)], torch.arange(num_tokens), rank, bench.device)
    works = {"named": _work(bench, batch, partial(_named, named))}
    for layout in Layout:
        works[layout.name.lower()] = _work(bench, batch, partial(_routed, layout, batch))
    medians_s = {
        key: statistics.median(device_times_s(work, bench.device, plan.num_rounds))
        for key, work in works.items()
    }
    num_choices = num_tokens * routed.max_choices
    taken = layout_of(num_choices, routed.expert_slots.numel(), most_rows(routed))
    microseconds = {key: round(median_s * 1e6, 1) for key, median_s in medians_s.items()}
    return [
        Figure(
            name=f"{name}, {layout.name.lower()}, over one that is named",
            value=medians_s[layout.name.lower()] / medians_s["named"],
            details={"us_of_a_step": microseconds, "is_taken": layout is taken},
        )
        for layout in Layout
    ]


def _named(
    pairs: LoraPairs,
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    layer: int,
    projections: tuple[Projection, ...],
) -> tuple[Tensor, LoraPairs]:
    return lora_triton.shrink(x, pool, tables, pairs, layer, projections), pairs


def _routed(
    layout: Layout,
    batch: RoutedBatch,
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    layer: int,
    projections: tuple[Projection, ...],
) -> tuple[Tensor, LoraPairs]:
    return routing_triton.shrink_in(layout, x, pool, tables, batch.routed, layer, projections)


def _work(bench: Bench, batch: RoutedBatch, shrink: _Launch) -> Callable[[], None]:
    """All shrinks and expands of one step."""
    shape, data, tables = bench.plan.config.shape, batch.pool.data, batch.pool.tables
    groups = [side_by_side(shape, modules) for modules in SIBLINGS]
    xs = [torch.randn(batch.num_tokens, shape.in_features(each[0])) for each in SIBLINGS]
    xs = [x.to(data) for x in xs]
    ys = [data.new_zeros(batch.num_tokens, sum(p.out_features for p in each)) for each in groups]

    def work() -> None:
        for layer in range(shape.num_layers):
            for x, y, group in zip(xs, ys, groups, strict=True):
                v, pairs = shrink(x, data, tables, layer, group)
                routing_triton.expand(v, data, tables, pairs, layer, group, y)

    return work
