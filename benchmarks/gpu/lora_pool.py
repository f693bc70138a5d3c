"""Pools of random adapters, packed and copied in as the engine does it.

Owns: random adapters, known both as pages and as matrices, and where they lie in a pool.
Does not know: any kernel.

Pages are dealt out at random. Whatever is no rank row is NaN, and so is page 0, which belongs to
nobody and where every unused entry of the tables points: a kernel that reads one row too many, or
the wrong one, shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motet.core.shape import GATE_UP, MODULES, QKV, ModelShape, Module
from motet.kernels.types import LoraPairs, Projection
from motet.memory.device_pool import DevicePool, PackedAdapter
from motet.memory.geometry import PageGeometry, lay_out_adapter, smallest_page_size
from motet.memory.residency import Placement

SIBLINGS = (QKV, (Module.O,), GATE_UP, (Module.DOWN,))

Ranks = Mapping[tuple[int, Module], int]
"""True rank by (layer, module); a missing key is an untouched projection."""

Matrices = Mapping[tuple[int, Module, bool], Tensor]
"""A, or B transposed (True), [rank, width], by (layer, module)."""


@dataclass(frozen=True)
class RandomAdapter:
    """The same adapter in page layout and as matrices, with the pool's rounding."""

    packed: PackedAdapter
    matrices: Matrices


def uniform_ranks(shape: ModelShape, rank: int) -> Ranks:
    """The same rank on every projection of every layer."""
    return {(layer, module): rank for layer in range(shape.num_layers) for module in MODULES}


def row_elems(shape: ModelShape, ranks: Ranks) -> int:
    """Elements of all rank rows of an adapter: what a step that uses it must read."""
    return sum(
        rank * (shape.in_features(module) + shape.out_features(module))
        for (_, module), rank in ranks.items()
    )


def random_adapter(
    geometry: PageGeometry, ranks: Ranks, dtype: torch.dtype, generator: torch.Generator
) -> RandomAdapter:
    """An adapter on the generator's device, NaN between its rows.

    Elements of A are about 1 / sqrt(in_features), those of B about 1 / sqrt(rank).
    """
    layout = lay_out_adapter(geometry, ranks)
    shape = (geometry.shape.num_layers, layout.num_pages, geometry.page_elems)
    pages = torch.full(shape, torch.nan, dtype=dtype, device=generator.device)
    matrices: dict[tuple[int, Module, bool], Tensor] = {}
    for run, stretches in zip(layout.runs, layout.stretches, strict=True):
        size = (run.num_rows, run.row_elems)
        scale = (run.num_rows if run.is_b else run.row_elems) ** -0.5
        rows = torch.randn(size, generator=generator, device=generator.device) * scale
        rows = matrices[run.layer, run.module, run.is_b] = rows.to(dtype)
        first = 0
        for each in stretches:
            end = each.start + each.num_rows * run.row_elems
            pages[run.layer, each.page, each.start : end] = rows[
                first : first + each.num_rows
            ].flatten()
            first += each.num_rows
    return RandomAdapter(PackedAdapter(layout, pages), matrices)


def model_geometry(shape: ModelShape) -> PageGeometry:
    """Pages as an engine has them by default."""
    return PageGeometry(shape, smallest_page_size(shape))


def build_pool(
    geometry: PageGeometry, adapters: Sequence[PackedAdapter], device: torch.device
) -> DevicePool:
    """A pool with these adapters, each in pages of its own even where two are the same object.

    Adapter i has slot i; the slot after the last has no rank rows.
    """
    num_pages = 2 + sum(packed.layout.num_pages for packed in adapters)
    pool = DevicePool(geometry, num_pages, adapters[0].pages.dtype, device)
    pool.data.fill_(torch.nan)
    free = (1 + torch.randperm(num_pages - 1)).tolist()
    first_row = 1
    for slot, packed in enumerate(adapters):
        pages = tuple(free.pop() for _ in range(packed.layout.num_pages))
        num_rows = packed.layout.num_rows
        pool.copy_in(packed, Placement(str(slot), slot, pages, first_row, num_rows))
        first_row += num_rows
    return pool


def build_pairs(
    segments: Sequence[tuple[int, int]], tokens: Tensor, max_rank: int, device: torch.device
) -> LoraPairs:
    """Pairs of a batch.

    Args:
        segments: (slot, number of tokens), by slot.
        tokens: rows of the batch, one for each pair.
        max_rank: of all these adapters.
    """
    counts = torch.tensor([count for _, count in segments])
    slots = torch.tensor([slot for slot, _ in segments]).repeat_interleave(counts)
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return LoraPairs(
        tokens=tokens.to(device, torch.int32),
        slots=slots.to(device, torch.int32),
        weights=(4 * torch.rand(len(slots)) - 2).to(device),
        segment_starts=starts.to(device, torch.int32),
        max_rank=max_rank,
    )


def side_by_side(shape: ModelShape, modules: Sequence[Module]) -> tuple[Projection, ...]:
    """Sibling projections, their outputs in this order."""
    projections = []
    start = 0
    for module in modules:
        projections.append(Projection(int(module), start, shape.out_features(module)))
        start += shape.out_features(module)
    return tuple(projections)
