"""KV write and paged attention on a CPU, over the pool in place.

Owns: what the compiled loops (`attention_cpu_loops.py`) are given, and the path of a 16-bit pool.
Does not know: who fills the page table.

A float32 pool is read where it lies, through the page table. The pages of a 16-bit pool are
gathered and widened first, in each call: right, but not fast.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from motet.kernels import attention_cpu_loops as loops
from motet.kernels.attention_checks import check_paged_attention, check_write_kv
from motet.kernels.types import AttentionBatch

LOG2_E = 1.4426950408889634


def write_kv(
    k: Tensor, v: Tensor, pool: Tensor, layer: int, kv_slots: Tensor, page_size: int
) -> None:
    """Store the new tokens' keys and values in their pages.

    KV[layer, slot // page_size, 0 or 1, slot % page_size] = k[t] or v[t]  with slot = kv_slots[t]

    Args:
        k, v: [num_tokens, num_kv_heads, head_dim], the pool's dtype (any of 2 or 4 bytes). Tokens
            may be any stride apart, as in a merged qkv tensor; else they are copied once.
        pool: [num_layers, num_pages, page_elems], contiguous, of which the named slots change.
        kv_slots: int64 [num_tokens].
        page_size: KV tokens in a page.
    """
    num_tokens, num_kv_heads, head_dim = k.shape
    check_write_kv(k, v, pool, kv_slots, page_size)
    if num_tokens == 0:
        return
    bits = torch.int32 if pool.element_size() == 4 else torch.int16
    k_flat, k_stride = _flat_rows(k.view(bits))
    v_flat, v_stride = _flat_rows(v.view(bits))
    loops.write_kv(
        k_flat,
        k_stride,
        v_flat,
        v_stride,
        pool[layer].view(bits).view(-1).numpy(),
        page_size,
        num_kv_heads * head_dim,
        kv_slots.numpy(),
    )


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

    A single token: scores of its context, then their softmax, then the weighted sum, each K and V
    row read once for the heads of its group. A chunk: tiles of 64 (token, head) rows of a
    group, the online softmax (Milakov & Gimelshein 2018) page by page as in FlashAttention (Dao et
    al. 2022), the rows in the SIMD lanes. Work is cut into one run per thread of equal cost.

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
    out = torch.empty(num_tokens, num_heads, head_dim, dtype=torch.float32)
    if num_tokens == 0 or batch.num_seqs == 0:
        return out.to(q.dtype)
    if pool.dtype == torch.float32:
        pages, page_table = pool[layer], batch.page_table
    else:
        pages, page_table = _widened_pages(pool[layer], batch)
    if sliding_window is None:
        sliding_window = page_table.shape[1] * batch.page_size  # no context is longer
    q_flat, q_stride = _flat_rows(q.float())
    loops.attend_batch(
        q_flat,
        q_stride,
        pages.view(-1).numpy(),
        (batch.page_size, num_kv_heads, head_dim),
        page_table.contiguous().numpy(),
        batch.query_starts.numpy(),
        batch.context_lens.numpy(),
        np.float32(scale * LOG2_E),
        sliding_window,
        numba.get_num_threads(),
        out.numpy(),
    )
    return out.to(q.dtype)


def _flat_rows(x: Tensor) -> tuple[np.ndarray, int]:
    """[n, heads, dim] as one flat array and the elements from one row to the next.

    Numba compiles once for a flat array, whatever tensor the rows are a part of.
    """
    num_rows, num_heads, dim = x.shape
    if x.stride(2) != 1 or x.stride(1) != dim:
        x = x.contiguous()
    stride = x.stride(0)
    return x.as_strided(((num_rows - 1) * stride + num_heads * dim,), (1,)).numpy(), stride


def _widened_pages(layer_pool: Tensor, batch: AttentionBatch) -> tuple[Tensor, Tensor]:
    """The batch's pages of a 16-bit pool in float32, and the page table into them."""
    num_pages = (batch.context_lens + batch.page_size - 1) // batch.page_size
    used = torch.arange(batch.page_table.shape[1]) < num_pages[:, None]
    page_ids = batch.page_table[used]
    page_table = torch.zeros_like(batch.page_table)
    page_table[used] = torch.arange(len(page_ids), dtype=page_table.dtype)
    return layer_pool.index_select(0, page_ids).float(), page_table
