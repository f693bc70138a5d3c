"""Random pools, tables and pairs for the tests and benchmarks of the LoRA kernels.

Owns: a `LoraCase`, whose adapters are known both as rows in a pool and as dense matrices.
Does not know: any kernel.

Rows lie in random order over pages that are not adjacent, never across a page's end. Everything
else in the pool is NaN, and so is page 0, where every unused entry of the tables points: a kernel
that reads one row too many, or the wrong one, shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motet.kernels.types import LoraPairs, LoraTables, Projection

Ranks = dict[tuple[int, int, int], int]
"""True rank by (slot, layer, module); a missing key is an untouched module."""


@dataclass(frozen=True)
class Widths:
    """in_features and out_features of one module."""

    in_features: int
    out_features: int


@dataclass(frozen=True)
class LoraCase:
    """Adapters in a pool, and the same adapters as dense float64 matrices.

    Attributes:
        modules: widths by column of the tables.
        pool: [num_layers, num_pages, page_elems].
        a: [rank, in_features] by (slot, layer, module), with the pool's rounding.
        b: [out_features, rank], likewise.
    """

    modules: tuple[Widths, ...]
    pool: Tensor
    tables: LoraTables
    a: dict[tuple[int, int, int], Tensor]
    b: dict[tuple[int, int, int], Tensor]


def build_case(
    generator: torch.Generator,
    modules: Sequence[Widths],
    ranks: Ranks,
    *,
    num_slots: int,
    num_layers: int,
    dtype: torch.dtype = torch.float32,
    page_elems: int | None = None,
) -> LoraCase:
    """Random adapters of the given ranks, with weights of about 1 / sqrt(in_features or rank)."""
    longest = max(max(w.in_features, w.out_features) for w in modules)
    packer = _Packer(generator, num_layers, page_elems or 2 * longest + 3)
    a: dict[tuple[int, int, int], Tensor] = {}
    b: dict[tuple[int, int, int], Tensor] = {}
    for (slot, layer, module), rank in ranks.items():
        widths = modules[module]
        a_rows = torch.randn(rank, widths.in_features, generator=generator, dtype=torch.float64)
        b_rows = torch.randn(rank, widths.out_features, generator=generator, dtype=torch.float64)
        a_rows = (a_rows / widths.in_features**0.5).to(dtype)
        b_rows = (b_rows / max(rank, 1) ** 0.5).to(dtype)
        packer.add((slot, layer, module, 0), layer, a_rows)
        packer.add((slot, layer, module, 1), layer, b_rows)
        a[slot, layer, module] = a_rows.double()
        b[slot, layer, module] = b_rows.double().T
    pool, row_offsets, run_starts = packer.pack((num_slots, num_layers, len(modules), 2), dtype)
    rank_table = torch.zeros(num_slots, num_layers, len(modules), dtype=torch.int32)
    for key, rank in ranks.items():
        rank_table[key] = rank
    return LoraCase(tuple(modules), pool, LoraTables(row_offsets, run_starts, rank_table), a, b)


def build_pairs(
    generator: torch.Generator,
    num_tokens: int,
    slot_counts: Sequence[tuple[int, int]],
    max_rank: int,
    *,
    adjacent_tokens: bool = False,
) -> LoraPairs:
    """Pairs of (slot, number of tokens) segments: random tokens, or the last ones in order."""
    counts = [(slot, count) for slot, count in sorted(slot_counts) if count > 0]
    num_pairs = sum(count for _, count in counts)
    tokens = torch.randperm(num_tokens, generator=generator)[:num_pairs]
    if adjacent_tokens:
        tokens = torch.arange(num_tokens - num_pairs, num_tokens)
    weights = 4 * torch.rand(num_pairs, generator=generator) - 2
    starts = [0]
    for _, count in counts:
        starts.append(starts[-1] + count)
    return LoraPairs(
        tokens=tokens.to(torch.int32),
        slots=torch.tensor([s for s, count in counts for _ in range(count)], dtype=torch.int32),
        weights=weights,
        segment_starts=torch.tensor(starts, dtype=torch.int32),
        max_rank=max_rank,
    )


def expected_shrink(
    case: LoraCase, x: Tensor, pairs: LoraPairs, layer: int, projections: tuple[Projection, ...]
) -> Tensor:
    """v in float64 from the dense matrices; NaN where it is undefined."""
    v = torch.full((pairs.num_pairs, len(projections), pairs.max_rank), torch.nan).double()
    for p, (token, slot) in enumerate(zip(pairs.tokens, pairs.slots, strict=True)):
        for s, projection in enumerate(projections):
            a = case.a.get((int(slot), layer, projection.module))
            if a is not None:
                v[p, s, : a.shape[0]] = a @ x[token].double()
    return v


def expected_expand(
    case: LoraCase,
    v: Tensor,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
    y: Tensor,
) -> Tensor:
    """A new y in float64 from the dense matrices."""
    out = y.double()
    for p, (token, slot) in enumerate(zip(pairs.tokens, pairs.slots, strict=True)):
        for s, projection in enumerate(projections):
            b = case.b.get((int(slot), layer, projection.module))
            if b is not None:
                start = projection.out_start
                delta = pairs.weights[p].double() * (b @ v[p, s, : b.shape[1]].double())
                out[token, start : start + projection.out_features] += delta
    return out


class _Packer:
    """Collects rows, then deals them out over every other page of their layer, at random."""

    def __init__(self, generator: torch.Generator, num_layers: int, page_elems: int) -> None:
        self.generator = generator
        self.page_elems = page_elems
        self.rows: list[list[tuple[int, Tensor]]] = [[] for _ in range(num_layers)]
        self.runs: dict[tuple[int, int, int, int], int] = {}
        self.num_entries = 1  # entry 0 belongs to no row

    def add(self, run: tuple[int, int, int, int], layer: int, rows: Tensor) -> None:
        self.runs[run] = self.num_entries
        self.rows[layer] += [(self.num_entries + i, row) for i, row in enumerate(rows)]
        self.num_entries += len(rows) + 1  # and a gap between runs

    def pack(
        self, table_shape: tuple[int, int, int, int], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pool, row_offsets and run_starts."""
        layouts = [self._layout(rows) for rows in self.rows]
        num_pages = 3 + 2 * max(pages for _, pages in layouts)
        pool = torch.full((len(self.rows), num_pages, self.page_elems), torch.nan, dtype=dtype)
        row_offsets = torch.zeros(self.num_entries, dtype=torch.int64)
        flat = pool.view(-1)
        for layer, (placed, pages) in enumerate(layouts):
            # Odd pages only, and not all of them: no two are adjacent.
            ids = 1 + 2 * torch.randperm(num_pages // 2, generator=self.generator)[:pages]
            for entry, row, page, at in placed:
                offset = (layer * num_pages + int(ids[page])) * self.page_elems + at
                flat[offset : offset + len(row)] = row
                row_offsets[entry] = offset
        run_starts = torch.zeros(table_shape, dtype=torch.int32)
        for run, start in self.runs.items():
            run_starts[run] = start
        return pool, row_offsets, run_starts

    def _layout(
        self, rows: list[tuple[int, Tensor]]
    ) -> tuple[list[tuple[int, Tensor, int, int]], int]:
        """(entry, row, page, position in the page) of each row, and the number of pages."""
        placed = []
        page, at = 0, 0
        for i in torch.randperm(len(rows), generator=self.generator).tolist():
            entry, row = rows[i]
            if at + len(row) > self.page_elems:
                page, at = page + 1, 0
            placed.append((entry, row, page, at))
            at += len(row)
        return placed, page + 1
