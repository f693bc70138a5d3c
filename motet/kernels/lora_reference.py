"""The LoRA kernels in plain torch: what the fast ones are tested against.

Owns: the meaning of shrink and expand, one pair and one projection at a time.
Does not know: speed. Layout and interfaces are in `types.py`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from motet.kernels.types import LoraPairs, LoraTables, Projection


def shrink(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
) -> Tensor:
    """v[0, p, s, j] = sum_k A_s[j, k] * x[token(p), k] for j < rank. See `types.Kernels.shrink`.

    Args:
        x: [num_tokens, in_features].
        pool: [num_layers, num_pages, page_elems], any float dtype.

    Returns:
        [1, num_pairs, len(projections), max_rank], float32, or float64 where the pool is float64;
        computed in that dtype. What is undefined in it is NaN here, so that a reader of it shows.
    """
    dtype = _sum_dtype(pool)
    v = torch.full((1, pairs.num_pairs, len(projections), pairs.max_rank), torch.nan, dtype=dtype)
    v = v.to(pool.device)
    for p in range(pairs.num_pairs):
        x_row = x[int(pairs.tokens[p])].to(dtype)
        for s, projection in _projections_of(pairs, p, projections):
            a = _rows(pool, tables, pairs, p, layer, projection, side=0, width=x.shape[1])
            v[0, p, s, : a.shape[0]] = a.to(dtype) @ x_row
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
    """y[token(p), columns of s] += weight(p) * sum_ij v[i, p, s, j] * B_s[:, j], in place.

    Args:
        v: [num_parts, num_pairs, len(projections), max_rank], as `shrink` returns it.
        pool: [num_layers, num_pages, page_elems], any float dtype.
        y: [num_tokens, total_out_features]. Changed in place; rows without a pair are left alone.
            The sum is taken in float32 (float64 for a float64 pool) and rounded once.
    """
    dtype = _sum_dtype(pool)
    for p in range(pairs.num_pairs):
        for s, projection in _projections_of(pairs, p, projections):
            width = projection.out_features
            b = _rows(pool, tables, pairs, p, layer, projection, side=1, width=width)
            if b.shape[0] == 0:
                continue
            v_row = v[:, p, s, : b.shape[0]].to(dtype).sum(0)
            delta = pairs.weights[p].to(dtype) * (v_row @ b.to(dtype))
            columns = slice(projection.out_start, projection.out_start + width)
            y_row = y[int(pairs.tokens[p]), columns]
            y_row.copy_(y_row.to(dtype) + delta)


def _sum_dtype(pool: Tensor) -> torch.dtype:
    return torch.float64 if pool.dtype == torch.float64 else torch.float32


def _projections_of(
    pairs: LoraPairs, pair: int, projections: tuple[Projection, ...]
) -> Iterator[tuple[int, Projection]]:
    """Those that a pair is for."""
    bits = -1 if pairs.siblings is None else int(pairs.siblings[pair])
    return ((s, each) for s, each in enumerate(projections) if bits >> s & 1)


def _rows(
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    pair: int,
    layer: int,
    projection: Projection,
    side: int,
    width: int,
) -> Tensor:
    """The rank rows of a pair's adapter, [rank, width]: rows of A (side 0), columns of B (1)."""
    slot = int(pairs.slots[pair])
    rank = int(tables.ranks[slot, layer, projection.module])
    start = int(tables.run_starts[slot, layer, projection.module, side])
    offsets = tables.row_offsets[start : start + rank].tolist()
    flat = pool.view(-1)
    rows = [flat[offset : offset + width] for offset in offsets]
    return torch.stack(rows) if rows else flat.new_empty((0, width))
