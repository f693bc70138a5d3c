"""The LoRA kernels of a GPU, in Triton: rank rows read where they lie in the page pool.

Owns: the checks of what the kernels take, and the choice between tiles (`lora_triton_tiles.py`) and
dense products (`lora_triton_dense.py`).
Does not know: streams and CUDA graphs; a launch here neither waits for the device nor reads from
it. (The first call for some projections copies a table to the device, and the first of a shape
compiles: both have to happen before a capture.)

Rows in pages, at true ranks, are the idea of S-LoRA (arXiv 2311.03285); here ranks also differ by
layer and module. Sibling projections go in one launch, and each reads and computes its true ranks
and its own columns only. Several rounds of pairs are one shrink, and an expand for each. Each
element is written by one program of a launch, in a fixed order: deterministic, no atomics, nothing
to clear first.
"""

import torch
from torch import Tensor

from motet.kernels import lora_triton_dense as dense
from motet.kernels import lora_triton_tiles as tiles
from motet.kernels.lora_triton_sizes import expand_sizes, shrink_sizes
from motet.kernels.types import LoraPairs, LoraTables, Projection


def shrink(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
) -> Tensor:
    """sum_i v[i, p, s, j] = sum_k A_s[j, k] * x[token(p), k] for j < rank. See `types.Kernels`.

    Part i is the sum over the i-th of num_parts equal ranges of k. There are as many as it takes
    for a small batch to fill the device (split-K), up to `tiles.MAX_PARTS`.

    Args:
        x: [num_tokens, in_features] in the pool's dtype, columns adjacent.
        pool: [num_layers, num_pages, page_elems], contiguous; float32, bfloat16 or float16.

    Returns:
        float32 [num_parts, num_pairs, len(projections), max_rank]; products of the pool's dtype,
        summed in float32. Entries at and above the true rank are undefined.
    """
    _check(x, pool, tables, pairs)
    if pairs.num_pairs == 0 or pairs.max_rank == 0:
        shape = (1, pairs.num_pairs, len(projections), pairs.max_rank)
        return torch.empty(shape, dtype=torch.float32, device=x.device)
    if dense.pays(pairs, x):
        return dense.shrink(x, pool, tables, pairs, layer, projections)
    sizes = shrink_sizes(tiles.shrink_shape(pairs, x.shape[1]))
    return tiles.shrink(x, pool, tables, pairs, layer, projections, sizes)


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
        v: float32 [num_parts, num_pairs, len(projections), max_rank], contiguous, as `shrink`
            returns it. The parts are added in order, in float32.
        pool: as for `shrink`.
        y: [num_tokens, total_out_features] in the pool's dtype, columns adjacent. The sum is taken
            in float32 and rounded once. Rows without a pair, and columns of a projection that the
            pair's adapter does not touch, are neither read nor written.

    A v of a 16-bit pool goes into the tensor cores as two values of the pool's dtype, the nearest
    and what it leaves: 16 significant bits in bfloat16, against 11 in TF32 and the 8 that B has.
    That costs the arithmetic of TF32, and B needs no conversion. In float16 |v| has to be below
    65504, as in PEFT. A float32 pool is multiplied in float32.
    """
    _check(y, pool, tables, pairs)
    assert v.dtype == torch.float32, f"v is {v.dtype}, expected float32"
    assert v.is_contiguous(), "v must be contiguous"
    assert v.shape[1:] == (pairs.num_pairs, len(projections), pairs.max_rank), (
        f"v has shape {tuple(v.shape)}, expected that of this batch and these projections"
    )
    if pairs.num_pairs == 0 or pairs.max_rank == 0:
        return
    if dense.pays(pairs, y):
        dense.expand(v, pool, tables, pairs, layer, projections, y)
        return
    for stretch in tiles.rounds(pairs):
        sizes = expand_sizes(tiles.expand_shape(stretch, pairs.max_rank, projections))
        tiles.expand(v, pool, tables, pairs, layer, projections, y, stretch, sizes)


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
    assert pairs.siblings is None or pairs.siblings.dtype == torch.int32, "siblings must be int32"
    devices = {t.device for t in (tokens_by_features, pool, tables.row_offsets, pairs.tokens)}
    assert len(devices) == 1, f"x or y, pool, tables and pairs are on different devices: {devices}"
