"""The LoRA kernels of a GPU, in Triton: rank rows read where they lie in the page pool.

Owns: the choice between two kernels (`lora_triton_kernels.py`), their grids and block sizes.
Does not know: streams and CUDA graphs; a launch here neither waits for the device nor reads from
it. (The first call for some projections copies a table to the device, and the first of a shape
compiles: both have to happen before a capture.)

Where an adapter has few tokens (decode) the work is bound by memory: one program for each pair and
block of rank rows, as in BGMV. Where it has many (prefill) it is bound by arithmetic: one program
for each tile of a segment's pairs, on tensor cores, as in SGMV (both: Punica, arXiv 2310.18547).
Rows in pages, at true ranks, are the idea of S-LoRA (arXiv 2311.03285); here ranks also differ by
layer and module. Rank rows at and above the true rank are not read, and whole blocks of them end
at once. Each element is written by one program, in a fixed order: deterministic, no atomics.
"""

from functools import cache

import torch
import triton
from torch import Tensor

from motet.kernels import lora_triton_kernels as kernels
from motet.kernels.types import LoraPairs, LoraTables, Projection

_MIN_PAIRS_FOR_TILES = 4
"""Pairs per segment, on average, from which the tiled kernels are used."""


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
        pool: [num_layers, num_pages, page_elems], contiguous; float32, bfloat16 or float16.

    Returns:
        float32 [num_pairs, len(projections), max_rank], summed in float32. Entries at and above
        the true rank are not written.
    """
    _check(x, pool, tables, pairs)
    v = torch.empty(
        (pairs.num_pairs, len(projections), pairs.max_rank), dtype=torch.float32, device=x.device
    )
    if pairs.num_pairs == 0 or pairs.max_rank == 0:
        return v
    _, num_layers, num_modules = tables.ranks.shape
    common = (x, pool, tables.row_offsets, tables.run_starts, tables.ranks)
    siblings = _projection_table(projections, x.device)
    sizes = (x.stride(0), x.shape[1], layer, num_layers, num_modules, pairs.max_rank)
    if _uses_tiles(pairs):
        block_t, block_r = _tile_size(pairs), min(_power_of_two(pairs.max_rank, 16), 32)
        grid = (
            _num_tiles(pairs, block_t),
            len(projections),
            triton.cdiv(pairs.max_rank, block_r),
        )
        kernels.shrink_tile[grid](
            *common,
            pairs.tokens,
            pairs.slots,
            pairs.segment_starts,
            siblings,
            v,
            *sizes,
            pairs.num_segments,
            BLOCK_S=_power_of_two(pairs.num_segments, 16),
            BLOCK_T=block_t,
            BLOCK_R=block_r,
            BLOCK_K=64,
            PRECISION=_precision(pool),
        )
    else:
        block_r = 4 if pairs.num_pairs <= 16 else 8
        grid = (pairs.num_pairs, len(projections), triton.cdiv(pairs.max_rank, block_r))
        kernels.shrink_pair[grid](
            *common,
            pairs.tokens,
            pairs.slots,
            siblings,
            v,
            *sizes,
            BLOCK_R=block_r,
            BLOCK_K=512,
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
) -> None:
    """y[token(p), columns of s] += weight(p) * sum_j v[p, s, j] * B_s[:, j], in place.

    Args:
        v: float32 [num_pairs, len(projections), max_rank], contiguous, as `shrink` returns it.
        pool: as for `shrink`.
        y: [num_tokens, total_out_features] in the pool's dtype, columns adjacent. The sum is taken
            in float32 and rounded once; for a 16-bit pool the tiled kernel rounds v to TF32 (11
            significant bits, no fewer than the pool's) on its way into the tensor cores. Rows
            without a pair are neither read nor written.
    """
    _check(y, pool, tables, pairs)
    assert v.dtype == torch.float32, f"v is {v.dtype}, expected float32"
    assert v.is_contiguous(), "v must be contiguous"
    assert v.shape == (pairs.num_pairs, len(projections), pairs.max_rank), (
        f"v has shape {tuple(v.shape)}, expected that of this batch and these projections"
    )
    if pairs.num_pairs == 0 or pairs.max_rank == 0:
        return
    _, num_layers, num_modules = tables.ranks.shape
    common = (v, pool, tables.row_offsets, tables.run_starts, tables.ranks)
    siblings = _projection_table(projections, y.device)
    sizes = (y.stride(0), layer, num_layers, num_modules, pairs.max_rank)
    widest = max(p.out_features for p in projections)
    if _uses_tiles(pairs):
        block_t = _tile_size(pairs)
        grid = (_num_tiles(pairs, block_t), len(projections), triton.cdiv(widest, 64))
        kernels.expand_tile[grid](
            *common,
            pairs.tokens,
            pairs.slots,
            pairs.weights,
            pairs.segment_starts,
            siblings,
            y,
            *sizes,
            pairs.num_segments,
            BLOCK_S=_power_of_two(pairs.num_segments, 16),
            BLOCK_T=block_t,
            BLOCK_R=min(_power_of_two(pairs.max_rank, 16), 32),
            BLOCK_N=64,
            COLUMN_ALIGNMENT=_column_alignment(projections, y),
            PRECISION=_precision(pool),
        )
    else:
        block_n = 128 if pairs.num_pairs <= 16 else 256
        grid = (pairs.num_pairs, len(projections), triton.cdiv(widest, block_n))
        kernels.expand_pair[grid](
            *common,
            pairs.tokens,
            pairs.slots,
            pairs.weights,
            siblings,
            y,
            *sizes,
            BLOCK_R=8,
            BLOCK_N=block_n,
            COLUMN_ALIGNMENT=_column_alignment(projections, y),
        )


def _check(tokens_by_features: Tensor, pool: Tensor, tables: LoraTables, pairs: LoraPairs) -> None:
    """What the kernels rely on: a wrong dtype, stride or device reads foreign memory there."""
    assert pool.is_contiguous(), "pool must be contiguous"
    assert tokens_by_features.dtype == pool.dtype, (
        f"x or y is {tokens_by_features.dtype}, the pool {pool.dtype}: convert one of them"
    )
    assert tokens_by_features.dim() == 2, "x and y must be [num_tokens, features]"
    assert tokens_by_features.stride(1) == 1, "the columns of x and y must be adjacent"
    assert tables.row_offsets.dtype == torch.int64, "row_offsets must be int64"
    assert tables.run_starts.dtype == tables.ranks.dtype == torch.int32, "tables must be int32"
    assert pairs.tokens.dtype == pairs.slots.dtype == torch.int32, "pairs must be int32"
    assert pairs.segment_starts.dtype == torch.int32, "segment_starts must be int32"
    assert pairs.weights.dtype == torch.float32, "weights must be float32"
    devices = {t.device for t in (tokens_by_features, pool, tables.row_offsets, pairs.tokens)}
    assert len(devices) == 1, f"x or y, pool, tables and pairs are on different devices: {devices}"


@cache
def _projection_table(projections: tuple[Projection, ...], device: torch.device) -> Tensor:
    """int32 [num_projections, 3]: module, out_start, out_features."""
    rows = [(p.module, p.out_start, p.out_features) for p in projections]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _column_alignment(projections: tuple[Projection, ...], y: Tensor) -> int:
    """8 where 8 columns at a time may be read and written, else 1."""
    columns = [n for p in projections for n in (p.out_start, p.out_features)]
    is_aligned = y.data_ptr() % 16 == 0 and all(n % 8 == 0 for n in (y.stride(0), *columns))
    return 8 if is_aligned else 1


def _uses_tiles(pairs: LoraPairs) -> bool:
    return pairs.num_pairs >= _MIN_PAIRS_FOR_TILES * pairs.num_segments


def _tile_size(pairs: LoraPairs) -> int:
    """Pairs of a tile: large tiles read rank rows less often, small ones fill the device."""
    per_segment = pairs.num_pairs // pairs.num_segments
    if per_segment >= 64 and pairs.num_pairs >= 2048:
        return 64
    return 32 if per_segment >= 32 and pairs.num_pairs >= 512 else 16


def _num_tiles(pairs: LoraPairs, block_t: int) -> int:
    """Enough tiles for any lengths of the segments; known without asking the device."""
    return min(pairs.num_pairs, pairs.num_pairs // block_t + pairs.num_segments)


def _power_of_two(value: int, least: int) -> int:
    return max(least, 1 << (value - 1).bit_length())


def _precision(pool: Tensor) -> str:
    """TF32 holds every value of a 16-bit pool; float32 is multiplied as float32."""
    return "ieee" if pool.dtype == torch.float32 else "tf32"
