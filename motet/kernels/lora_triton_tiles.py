"""Launches of the two Triton LoRA kernels: which tiles, which grid, in how many parts.

Owns: the grids, from what the host knows of a batch; nothing is read from the device, so a captured
graph stays right whatever its tables and slots hold later.
Does not know: which sizes are good (`lora_triton_sizes.py`); what one program does
(`lora_triton_kernels.py`).

A tile is a group of pairs of one adapter, whose rank rows are read once for all of them. Where the
host knows of segments with several pairs, tiles are found from the segments (prefill, SGMV, Punica,
arXiv 2310.18547). Where every pair is a segment of its own (decode in a graph) there is one program
for each pair, as in BGMV; the first of up to `block_t` neighbours of the same slot works for all of
them and the others end at once, so that many tokens of one adapter cost about what one costs.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from motet.kernels import lora_triton_kernels as kernels
from motet.kernels.lora_triton_sizes import ExpandSizes, Shape, ShrinkSizes
from motet.kernels.types import LoraPairs, LoraTables, Projection, Round

MAX_PARTS = 16
"""Most parts of a shrink: every program of the expand reads them all."""


class Stretch(NamedTuple):
    """Adjacent pairs that one launch is for: all of them, or those of a round."""

    first_segment: int
    num_segments: int
    first_pair: int
    num_pairs: int

    @property
    def by_segment(self) -> bool:
        """Where every pair is a segment of its own, the segments say nothing."""
        return self.num_segments < self.num_pairs


def whole(pairs: LoraPairs) -> Stretch:
    """All pairs: a shrink does not care about rounds."""
    return Stretch(0, pairs.num_segments, 0, pairs.num_pairs)


def rounds(pairs: LoraPairs) -> Iterator[Stretch]:
    """The rounds that have pairs, in order: each needs an expand of its own."""
    end = Round(pairs.num_segments, pairs.num_pairs)
    for start, next_start in pairwise((*pairs.rounds, end)):
        num_segments = next_start.first_segment - start.first_segment
        num_pairs = next_start.first_pair - start.first_pair
        if num_pairs > 0:
            yield Stretch(start.first_segment, num_segments, start.first_pair, num_pairs)


def shrink_shape(pairs: LoraPairs, in_features: int) -> Shape:
    """What the sizes of a shrink depend on."""
    return _shape(whole(pairs), pairs.max_rank, in_features)


def expand_shape(stretch: Stretch, max_rank: int, projections: tuple[Projection, ...]) -> Shape:
    """What the sizes of an expand of a round depend on."""
    return _shape(stretch, max_rank, sum(p.out_features for p in projections))


def shrink(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
    sizes: ShrinkSizes,
) -> Tensor:
    """v of at least one pair, as `lora_triton.shrink` describes it, with these sizes."""
    in_features, stretch = x.shape[1], whole(pairs)
    num_rows = len(projections) * pairs.max_rank
    block_r = min(sizes.block_r, power_of_two(num_rows, 16))
    num_blocks = triton.cdiv(num_rows, block_r)
    num_programs = _num_tiles(stretch, sizes.block_t) * num_blocks
    part_features = _part_features(in_features, num_programs, sizes)
    num_parts = triton.cdiv(in_features, part_features)
    v = torch.empty(
        (num_parts, pairs.num_pairs, len(projections), pairs.max_rank),
        dtype=torch.float32,
        device=x.device,
    )
    _, num_layers, num_modules = tables.ranks.shape
    kernels.shrink[(num_programs, num_parts)](
        x,
        pool,
        tables.row_offsets,
        tables.run_starts,
        tables.ranks,
        pairs.tokens,
        pairs.slots,
        pairs.siblings,
        pairs.segment_starts,
        projection_table(projections, x.device),
        v,
        x.stride(0),
        in_features,
        part_features,
        layer,
        num_layers,
        num_modules,
        pairs.max_rank,
        pairs.num_pairs,
        pairs.num_segments,
        num_blocks,
        NUM_SIBLINGS=len(projections),
        BY_SEGMENT=stretch.by_segment,
        BLOCK_S=_segment_block(stretch),
        BLOCK_T=sizes.block_t,
        BLOCK_R=block_r,
        BLOCK_K=sizes.block_k,
        num_warps=sizes.num_warps,
        num_stages=_num_stages(pool, sizes.num_stages),
    )
    return v


def expand(
    v: Tensor,
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
    y: Tensor,
    stretch: Stretch,
    sizes: ExpandSizes,
) -> None:
    """y += of the pairs of one round, as `lora_triton.expand` describes it, with these sizes."""
    num_blocks = sum(triton.cdiv(p.out_features, sizes.block_n) for p in projections)
    run_block = power_of_two(pairs.max_rank, 16)
    block_r = min(sizes.block_r, run_block)
    # With one block of rank rows there is nothing to read ahead.
    num_stages = _num_stages(pool, sizes.num_stages) if block_r < run_block else 1
    _, num_layers, num_modules = tables.ranks.shape
    kernels.expand[(_num_tiles(stretch, sizes.block_t) * num_blocks,)](
        v,
        pool,
        tables.row_offsets,
        tables.run_starts,
        tables.ranks,
        pairs.tokens,
        pairs.slots,
        pairs.siblings,
        pairs.weights,
        pairs.segment_starts,
        projection_table(projections, y.device),
        y,
        y.stride(0),
        layer,
        num_layers,
        num_modules,
        pairs.max_rank,
        pairs.num_pairs,
        stretch.first_pair,
        stretch.first_pair + stretch.num_pairs,
        stretch.first_segment,
        stretch.num_segments,
        num_blocks,
        NUM_SIBLINGS=len(projections),
        NUM_PARTS=v.shape[0],
        NUM_TERMS=terms_of(pool),
        BY_SEGMENT=stretch.by_segment,
        BLOCK_S=_segment_block(stretch),
        BLOCK_T=sizes.block_t,
        BLOCK_R=block_r,
        BLOCK_N=sizes.block_n,
        RUN_BLOCK=run_block,
        COLUMN_ALIGNMENT=_column_alignment(projections, y),
        num_warps=sizes.num_warps,
        num_stages=num_stages,
    )


@cache
def projection_table(projections: tuple[Projection, ...], device: torch.device) -> Tensor:
    """int32 [num_projections, 3]: module, out_start, out_features.

    The first call for some projections copies to the device, which a capture does not allow; a
    warm-up step has to come before it.
    """
    rows = [(p.module, p.out_start, p.out_features) for p in projections]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def power_of_two(value: int, least: int) -> int:
    """The least power of two that is at least `value` and `least`, itself a power of two."""
    return max(least, 1 << (value - 1).bit_length())


def terms_of(pool: Tensor) -> int:
    """How many values of the pool's dtype stand for a float32 of v when it meets B."""
    return 1 if pool.dtype == torch.float32 else 2


def _shape(stretch: Stretch, max_rank: int, width: int) -> Shape:
    by_segment = stretch.by_segment
    count = stretch.num_pairs // stretch.num_segments if by_segment else stretch.num_pairs
    return Shape(by_segment, max_rank, count, width)


def _num_tiles(stretch: Stretch, block_t: int) -> int:
    """Enough tiles for any lengths of the segments, or for any slots."""
    if not stretch.by_segment:
        return stretch.num_pairs
    return min(stretch.num_pairs, stretch.num_pairs // block_t + stretch.num_segments)


def _part_features(in_features: int, num_programs: int, sizes: ShrinkSizes) -> int:
    """Features of a part, a multiple of block_k: as many parts as fill the device, none empty.

    A power of two of them, if the features allow it: an expand is compiled for each number.
    """
    wanted = triton.cdiv(sizes.wanted_programs, num_programs)
    num_parts = min(power_of_two(wanted, 1), MAX_PARTS)
    num_blocks = triton.cdiv(in_features, sizes.block_k)
    return int(triton.cdiv(num_blocks, num_parts)) * sizes.block_k


def _segment_block(stretch: Stretch) -> int:
    """Powers of two, so that a new number of segments is seldom a new compilation."""
    return power_of_two(stretch.num_segments, 16) if stretch.by_segment else 1


def _column_alignment(projections: tuple[Projection, ...], y: Tensor) -> int:
    """8 where 8 columns at a time may be read and written, else 1."""
    columns = [n for p in projections for n in (p.out_start, p.out_features)]
    is_aligned = y.data_ptr() % 16 == 0 and all(n % 8 == 0 for n in (y.stride(0), *columns))
    return 8 if is_aligned else 1


def _num_stages(pool: Tensor, num_stages: int) -> int:
    """The sizes are those of 16-bit pools; blocks of float32 take twice the shared memory."""
    return min(num_stages, 2) if pool.dtype == torch.float32 else num_stages
