"""Shrink and expand of a batch that is one adapter's alone, as dense products (cuBLAS).

Owns: when that pays, and how rank rows and v become matrices.
Does not know: tiles.

Tiles and dense products move the same bytes: x once, y twice. They differ in arithmetic. With a
16-bit pool an expand has 4 products for each of its ranks and elements of y, for which 4 bytes
move; at the rate that small tiles reach, an H100 takes longer for them than for the bytes from a
rank of about 100 on, while large dense products are still bound by the bytes. Below that they would
only add launches. So this is for long prompts of one adapter of a high rank.
"""

import torch
import triton
from torch import Tensor

from motet.kernels import lora_triton_dense_kernels as kernels
from motet.kernels.lora_triton_tiles import power_of_two, projection_table, terms_of
from motet.kernels.types import LoraPairs, LoraTables, Projection

MIN_TOKENS = 1024
MIN_RANK = 96
"""Least max_rank. Estimated from an H100's bandwidth and arithmetic, not measured."""


def pays(pairs: LoraPairs, tokens_by_features: Tensor) -> bool:
    """Whether one adapter has every row of x or y, and enough of them, at a high rank."""
    num_tokens = tokens_by_features.shape[0]
    return (
        pairs.num_segments == 1
        and pairs.siblings is None
        and pairs.num_pairs == num_tokens >= MIN_TOKENS
        and pairs.max_rank >= MIN_RANK
    )


def shrink(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
) -> Tensor:
    """v in one part, as `lora_triton.shrink` describes it: one product for all siblings."""
    copies = len(projections)
    a = _gather(pool, tables, pairs, layer, projections, copies, x.shape[1], side=0)
    v = _product(x, a).index_select(0, pairs.tokens)  # by token, then by pair
    return v.view(1, pairs.num_pairs, len(projections), pairs.max_rank)


def expand(
    v: Tensor,
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
    y: Tensor,
) -> None:
    """y += as `lora_triton.expand` describes it: one product for each sibling.

    The terms of v side by side meet as many copies of B below each other.
    """
    num_terms = terms_of(pool)
    weighted = _weigh(v, tables, pairs, layer, projections, y.dtype, num_terms)
    for s, projection in enumerate(projections):
        width = projection.out_features
        b = _gather(pool, tables, pairs, layer, (projection,), num_terms, width, side=1)
        columns = y[:, projection.out_start : projection.out_start + width]
        columns.addmm_(weighted[s], b)


def _product(x: Tensor, a: Tensor) -> Tensor:
    """x A^T in float32, with nothing rounded on the way."""
    if x.dtype == torch.float32:
        return torch.mm(x, a.T)
    return torch.mm(x, a.T, out_dtype=torch.float32)


def _gather(
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
    num_runs: int,
    width: int,
    side: int,
) -> Tensor:
    """[num_runs * max_rank, width] in the pool's dtype: rank rows, and zeros above the true rank.

    Run i is of projection i, beginning again after the last.
    """
    shape = (num_runs * pairs.max_rank, width)
    rows = torch.empty(shape, dtype=pool.dtype, device=pool.device)
    _, num_layers, num_modules = tables.ranks.shape
    block = min(power_of_two(width, 16), 1024)
    kernels.gather_rows[(rows.shape[0], triton.cdiv(width, block))](
        pool,
        tables.row_offsets,
        tables.run_starts,
        tables.ranks,
        pairs.slots,
        projection_table(projections, pool.device),
        rows,
        width,
        len(projections),
        layer,
        num_layers,
        num_modules,
        pairs.max_rank,
        SIDE=side,
        BLOCK=block,
    )
    return rows


def _weigh(
    v: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
    dtype: torch.dtype,
    num_terms: int,
) -> Tensor:
    """[num_projections, num_tokens, num_terms * max_rank]: weight(p) * v[p] at row token(p).

    Zero above the true rank. Two terms of `dtype` add up to the product.
    """
    weighted = torch.empty(
        (len(projections), pairs.num_pairs, num_terms * pairs.max_rank),
        dtype=dtype,
        device=v.device,
    )
    _, num_layers, num_modules = tables.ranks.shape
    block_t = 32
    grid = (triton.cdiv(pairs.num_pairs, block_t), len(projections))
    kernels.weigh[grid](
        v,
        tables.run_starts,
        tables.ranks,
        pairs.tokens,
        pairs.slots,
        pairs.weights,
        projection_table(projections, v.device),
        weighted,
        layer,
        num_layers,
        num_modules,
        pairs.max_rank,
        pairs.num_pairs,
        NUM_PARTS=v.shape[0],
        NUM_TERMS=num_terms,
        BLOCK_T=block_t,
        BLOCK_R=power_of_two(pairs.max_rank, 16),
    )
    return weighted
