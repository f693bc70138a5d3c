"""Paged attention on a CPU, over the pool in place.

Owns: what the compiled loops (`attention_cpu_loops.py`) are given, and the path of a 16-bit pool.
Does not know: who fills the page table.

A float32 pool is read where it lies, through the page table. The pages of a 16-bit pool are
gathered and widened first, in each call: right, but not fast.
"""

import numpy as np
import torch
from torch import Tensor

from motet.kernels import attention_cpu_loops as loops
from motet.kernels.attention_checks import check_paged_attention
from motet.kernels.math_cpu import LOG2_E
from motet.kernels.types import AttentionBatch


def paged_attention(
    q: Tensor,
    pool: Tensor,
    layer: int,
    batch: AttentionBatch,
    num_kv_heads: int,
    scale: float,
    sliding_window: int | None,
) -> Tensor:
    """Causal grouped-query attention over pages.

    out[t, h] = sum_j softmax_j(scale * q[t, h] . K[j, g]) V[j, g]  with g = h // (heads per group),
    over the positions j <= i of the token's own sequence, i its position there; with a sliding
    window of w, over i - w < j <= i.

    Heads of a group, and neighbouring tokens of a chunk, share what is read of a key: scores of
    all keys that any of them sees, then their softmax, then the weighted sum. The work is cut into
    one run per thread of equal cost.

    Args:
        q: [num_tokens, num_heads, head_dim], head_dim a multiple of 16, the pool's dtype. Tokens
            may be any stride apart; heads and elements must be adjacent, else q is copied once.
        pool: [num_layers, num_pages, page_elems], contiguous, float32, bfloat16 or float16.
            The new tokens' KV is already in it. Never read outside the contexts of this batch.
        scale: factor on the scores.

    Returns:
        [num_tokens, num_heads, head_dim], contiguous, q's dtype. Softmax and sums in float32.
        Rows of tokens that belong to no sequence are undefined.
    """
    num_tokens, num_heads, head_dim = q.shape
    check_paged_attention(q, pool, batch, num_kv_heads, sliding_window)
    for name in ("page_table", "query_starts", "context_lens"):
        dtype = getattr(batch, name).dtype
        assert dtype == torch.int32, f"{name} is {dtype}, expected int32"
    for name in ("query_starts", "context_lens"):
        assert getattr(batch, name).is_contiguous(), f"{name} must be contiguous"
    out = torch.empty(num_tokens, num_heads, head_dim, dtype=torch.float32)
    if num_tokens == 0 or batch.num_seqs == 0:
        return out.to(pool.dtype)
    if pool.dtype == torch.float32:
        pages, page_table = pool[layer], batch.page_table
    else:
        pages, page_table = _widened_pages(pool[layer], batch)
    if sliding_window is None:
        sliding_window = page_table.shape[1] * batch.page_size  # no context is longer
    q = q.float()
    if q.stride(2) != 1 or q.stride(1) != head_dim:
        q = q.contiguous()
    page_table = page_table.contiguous()
    loops.attend_batch(
        (q.data_ptr(), q.stride(0), num_heads),
        (out.data_ptr(), out.stride(0), num_heads),
        (pages.data_ptr(), batch.page_size, num_kv_heads, head_dim),
        (
            page_table.data_ptr(),
            batch.query_starts.data_ptr(),
            batch.context_lens.data_ptr(),
            page_table.shape[1],
            batch.num_seqs,
        ),
        sliding_window,
        np.float32(scale * LOG2_E),
        torch.get_num_threads(),
    )
    return out.to(pool.dtype)


def _widened_pages(layer_pool: Tensor, batch: AttentionBatch) -> tuple[Tensor, Tensor]:
    """The batch's pages of a 16-bit pool in float32, and the page table into them."""
    num_pages = (batch.context_lens + batch.page_size - 1) // batch.page_size
    used = torch.arange(batch.page_table.shape[1]) < num_pages[:, None]
    page_ids = batch.page_table[used]
    page_table = torch.zeros_like(batch.page_table)
    page_table[used] = torch.arange(len(page_ids), dtype=page_table.dtype)
    return layer_pool.index_select(0, page_ids).float(), page_table
