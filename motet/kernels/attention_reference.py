"""KV write and paged attention in plain torch, one sequence at a time.

Owns: the meaning of both kernels. The CPU and Triton implementations are tested against it.
Does not know: speed.
"""

import torch
from torch import Tensor

from motet.kernels.types import AttentionBatch


def write_kv(
    k: Tensor, v: Tensor, pool: Tensor, layer: int, kv_slots: Tensor, page_size: int
) -> None:
    """Store the new tokens' keys and values in their pages.

    KV[layer, slot // page_size, 0 or 1, slot % page_size] = k[t] or v[t]  with slot = kv_slots[t]

    Args:
        k, v: [num_tokens, num_kv_heads, head_dim], any strides, the pool's dtype.
        pool: [num_layers, num_pages, page_elems], of which the named slots change and nothing else.
        kv_slots: int64 [num_tokens].
        page_size: KV tokens in a page.
    """
    num_kv_heads, head_dim = k.shape[1:]
    pages = _kv_view(pool[layer], page_size, num_kv_heads, head_dim)
    pages[kv_slots // page_size, 0, kv_slots % page_size] = k
    pages[kv_slots // page_size, 1, kv_slots % page_size] = v


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
    window of w, over i - w < j <= i. Softmax and sums in float32.

    Args:
        q: [num_tokens, num_heads, head_dim], any strides.
        pool: [num_layers, num_pages, page_elems]; the new tokens' KV is already in it.

    Returns:
        [num_tokens, num_heads, head_dim], contiguous, q's dtype.
    """
    num_heads, head_dim = q.shape[1:]
    pages = _kv_view(pool[layer], batch.page_size, num_kv_heads, head_dim)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    starts = batch.query_starts.tolist()
    for i, context_len in enumerate(batch.context_lens.tolist()):
        rows = slice(starts[i], starts[i + 1])
        page_ids = batch.page_table[i, : -(-context_len // batch.page_size)]
        k, v = (
            pages[page_ids, side]
            .reshape(-1, num_kv_heads, head_dim)[:context_len]
            .float()
            .repeat_interleave(num_heads // num_kv_heads, dim=1)
            for side in (0, 1)
        )
        num_new_tokens = starts[i + 1] - starts[i]
        key_positions = torch.arange(context_len, device=q.device)
        query_positions = key_positions[context_len - num_new_tokens :, None]
        visible = key_positions <= query_positions
        if sliding_window is not None:
            visible &= key_positions > query_positions - sliding_window
        scores = scale * torch.einsum("thd,jhd->htj", q[rows].float(), k)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        out[rows] = torch.einsum("htj,jhd->thd", weights, v).to(q.dtype)
    return out


def _kv_view(layer_pool: Tensor, page_size: int, num_kv_heads: int, head_dim: int) -> Tensor:
    """One layer's pages as [num_pages, 2, page_size, num_kv_heads, head_dim]."""
    return layer_pool.view(-1, 2, page_size, num_kv_heads, head_dim)
