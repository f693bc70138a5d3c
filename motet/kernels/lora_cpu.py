"""The LoRA kernels of the CPU: rank rows read where they lie in the page pool.

Owns: the choice between two ways for a segment, and the checks of what the compiled loops take.
Does not know: how the loops divide their work (`lora_cpu_loops.py`).

A short segment (decode) is bound by memory: its rank rows are read once, in place, true rank by
true rank. A long one (prefill) is bound by arithmetic: its rows are copied next to each other and
BLAS multiplies. Both occur in one batch. A segment's length alone decides, so a token's result
does not depend on the other segments. (A step that runs its layers as one compiled call, see
`layers_cpu_loops.py`, reads segments of any length in place.) Grouping by adapter is the idea of
SGMV (Punica, arXiv 2310.18547), rows in pages and true ranks are S-LoRA's (arXiv 2311.03285); here
ranks also differ by layer and module.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motet.kernels import lora_cpu_loops as loops
from motet.kernels.rows_cpu import ROW_BLOCK
from motet.kernels.simd_cpu import LANES
from motet.kernels.types import LoraPairs, LoraTables, Projection

LONG_SEGMENT = 256
"""From this many pairs on, a segment's rows are copied and multiplied by BLAS."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def shrink(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
) -> Tensor:
    """v[p, s, j] = sum_k A_s[j, k] * x[token(p), k] for j < rank. See `types.Kernels.shrink`.

    Args:
        x: [num_tokens, in_features] in the pool's dtype, columns adjacent.
        pool: [num_layers, num_pages, page_elems], contiguous. float32 is read in place; bfloat16
            and float16 rows are copied and converted for each segment, which is slower.

    Returns:
        float32 [1, num_pairs, len(projections), max_rank], summed in float32. Entries at and above
        the true rank are undefined.
    """
    _check(x, pool, tables, pairs)
    num_rows = num_partial_rows(pairs.max_rank)
    padded = torch.empty((pairs.num_pairs, len(projections), num_rows))
    v = padded[:, :, : pairs.max_rank]
    longest = _longest_in_place(pool, [x.shape[1]])
    if longest > 0 and pairs.num_pairs > 0:
        loops.shrink(
            table_addresses(tables, layer),
            pair_addresses(pairs, longest),
            sibling_addresses(projections),
            (x.data_ptr(), x.stride(0), x.shape[1]),
            pool.data_ptr(),
            (padded.data_ptr(), padded.stride(0), padded.stride(1)),
            torch.get_num_threads(),
        )
    for segment in _segments_longer_than(longest, pairs):
        first, last = segment.first, segment.last
        runs = _runs(tables, segment, layer, projections, side=0)
        rows = _gather(pool, tables, runs, x.shape[1])
        products = x[_token_rows(pairs, first, last)].float() @ rows.T
        begin = 0
        for s, (_, rank) in enumerate(runs):
            v[first:last, s, :rank] = products[:, begin : begin + rank]
            begin += rank
    return v[None]


def expand(
    v: Tensor,
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
    y: Tensor,
) -> None:
    """y[token(p), columns of s] += weight(p) * sum_j v[p, s, j] * B_s[:, j], in place.

    Args:
        v: float32 [1, num_pairs, len(projections), max_rank], as `shrink` returns it.
        pool: as for `shrink`.
        y: [num_tokens, total_out_features] in the pool's dtype, columns adjacent. The sum is taken
            in float32. Rows without a pair are neither read nor written.
    """
    _check(y, pool, tables, pairs)
    assert v.dtype == torch.float32, f"v is {v.dtype}, expected float32"
    assert v.shape == (1, pairs.num_pairs, len(projections), pairs.max_rank), (
        f"v has shape {tuple(v.shape)}, expected that of this batch and these projections"
    )
    v = v[0]
    longest = _longest_in_place(pool, [p.out_features for p in projections])
    if longest > 0 and pairs.num_pairs > 0:
        loops.expand(
            table_addresses(tables, layer),
            pair_addresses(pairs, longest),
            pairs.weights.data_ptr(),
            sibling_addresses(projections),
            (v.data_ptr(), v.stride(0), v.stride(1)),
            pool.data_ptr(),
            (y.data_ptr(), y.stride(0), y.shape[1]),
            torch.get_num_threads(),
        )
    for segment in _segments_longer_than(longest, pairs):
        first, last = segment.first, segment.last
        tokens = _token_rows(pairs, first, last)
        runs = _runs(tables, segment, layer, projections, side=1)
        for s, (projection, run) in enumerate(zip(projections, runs, strict=True)):
            if run[1] == 0:
                continue
            rows = _gather(pool, tables, [run], projection.out_features)
            weighted = v[first:last, s, : run[1]] * pairs.weights[first:last, None]
            columns = y[:, projection.out_start : projection.out_start + projection.out_features]
            if y.dtype != torch.float32:
                columns[tokens] = (columns[tokens] + weighted @ rows).to(y.dtype)
            elif isinstance(tokens, slice):
                columns[tokens].addmm_(weighted, rows)
            else:
                columns.index_add_(0, tokens, weighted @ rows)


def num_partial_rows(max_rank: int) -> int:
    """Rank rows that v must have room for: the loops write whole blocks of them."""
    return -(-max_rank // ROW_BLOCK) * ROW_BLOCK


def _check(tokens_by_features: Tensor, pool: Tensor, tables: LoraTables, pairs: LoraPairs) -> None:
    """What the compiled loops rely on: a wrong dtype or stride there reads foreign memory."""
    assert pool.dtype in _DTYPES, f"pool is {pool.dtype}, expected one of {_DTYPES}"
    assert pool.is_contiguous(), "pool must be contiguous"
    assert tokens_by_features.dtype == pool.dtype, (
        f"x or y is {tokens_by_features.dtype}, the pool {pool.dtype}: convert one of them"
    )
    assert tokens_by_features.dim() == 2, "x and y must be [num_tokens, features]"
    assert tokens_by_features.stride(1) == 1, "the columns of x and y must be adjacent"
    check_tables(tables, pairs)


def check_tables(tables: LoraTables, pairs: LoraPairs) -> None:
    """Raises: AssertionError, where the loops would read something else than is there."""
    assert tables.row_offsets.dtype == torch.int64, "row_offsets must be int64"
    assert tables.run_starts.dtype == tables.ranks.dtype == torch.int32, "tables must be int32"
    assert pairs.tokens.dtype == pairs.slots.dtype == torch.int32, "pairs must be int32"
    assert pairs.segment_starts.dtype == torch.int32, "segment_starts must be int32"
    assert pairs.weights.dtype == torch.float32, "weights must be float32"
    if pairs.siblings is not None:
        assert pairs.siblings.dtype == torch.int32, "siblings must be int32"
        assert pairs.siblings.shape == pairs.slots.shape, "siblings must have an entry for a pair"
        assert pairs.siblings.is_contiguous(), "siblings must be contiguous"
    for owner, names in (
        (tables, ("row_offsets", "run_starts", "ranks")),
        (pairs, ("tokens", "slots", "weights", "segment_starts")),
    ):
        for name in names:
            assert getattr(owner, name).is_contiguous(), f"{name} must be contiguous"


def _longest_in_place(pool: Tensor, widths: list[int]) -> int:
    """Pairs of the longest segment whose rows are read in place.

    None of a 16-bit pool, nor of rows that are no whole number of vectors: no real model has them.
    """
    is_fit = pool.dtype == torch.float32 and all(width % LANES == 0 for width in widths)
    return LONG_SEGMENT - 1 if is_fit else 0


def table_addresses(tables: LoraTables, layer: int) -> loops.Tables:
    """The tables, as the loops take them."""
    _, num_layers, num_modules = tables.ranks.shape
    return (
        tables.row_offsets.data_ptr(),
        tables.run_starts.data_ptr(),
        tables.ranks.data_ptr(),
        layer * num_modules,
        num_layers * num_modules,
    )


def pair_addresses(pairs: LoraPairs, longest: int) -> loops.Pairs:
    """Pairs, as the loops take them; segments of more than `longest` are left out."""
    return (
        pairs.tokens.data_ptr(),
        pairs.slots.data_ptr(),
        pairs.segment_starts.data_ptr(),
        0 if pairs.siblings is None else pairs.siblings.data_ptr(),
        pairs.num_segments,
        longest,
        int(len(pairs.rounds) > 1),
    )


def sibling_addresses(projections: tuple[Projection, ...]) -> loops.Siblings:
    """Projections, as the loops take them."""
    return projection_table(projections).ctypes.data, len(projections)


@cache
def projection_table(
    projections: tuple[Projection, ...],
) -> NDArray[np.int32]:
    """See `lora_cpu_loops.Siblings`. Kept: its address is used."""
    return np.array([(p.module, p.out_start, p.out_features) for p in projections], np.int32)


class _Segment(NamedTuple):
    """A segment's slot, its siblings' bits, and its pairs `first:last`."""

    slot: int
    siblings: int
    first: int
    last: int


def _segments_longer_than(longest: int, pairs: LoraPairs) -> Iterator[_Segment]:
    if pairs.num_pairs <= longest:
        return
    starts = pairs.segment_starts.tolist()
    for first, last in pairwise(starts):
        if last - first > longest:
            siblings = -1 if pairs.siblings is None else int(pairs.siblings[first])
            yield _Segment(int(pairs.slots[first]), siblings, first, last)


def _token_rows(pairs: LoraPairs, first: int, last: int) -> Tensor | slice:
    """The rows of the batch of some pairs; a slice, which copies nothing, if they are adjacent."""
    tokens = pairs.tokens[first:last]
    start = int(tokens[0])
    if torch.equal(tokens, torch.arange(start, start + last - first, dtype=torch.int32)):
        return slice(start, start + last - first)
    return tokens


def _runs(
    tables: LoraTables,
    segment: _Segment,
    layer: int,
    projections: tuple[Projection, ...],
    side: int,
) -> list[tuple[int, int]]:
    """(first entry in `row_offsets`, rank) of each projection, of A (side 0) or B (1).

    The rank is 0 in projections that the segment is not for.
    """
    ranks = tables.ranks[segment.slot, layer].tolist()
    starts = tables.run_starts[segment.slot, layer, :, side].tolist()
    return [
        (starts[p.module], ranks[p.module] if segment.siblings >> s & 1 else 0)
        for s, p in enumerate(projections)
    ]


def _gather(pool: Tensor, tables: LoraTables, runs: list[tuple[int, int]], width: int) -> Tensor:
    """The rank rows of some runs, one after another: float32 [sum of ranks, width]."""
    rows = pool.new_empty((sum(rank for _, rank in runs), width))
    elem_bytes = pool.element_size()
    at = rows.data_ptr()
    for start, rank in runs:
        entries = tables.row_offsets.data_ptr() + start * tables.row_offsets.element_size()
        loops.gather(at, entries, pool.data_ptr(), rank, width, elem_bytes, torch.get_num_threads())
        at += rank * width * elem_bytes
    return rows.float()
