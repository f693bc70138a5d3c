"""Paged attention in plain torch, one sequence at a time.

Owns: the meaning of the kernel. The CPU and Triton implementations are tested against it.
Does not know: speed.
"""

import torch
from torch import Tensor

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
    window of w, over i - w < j <= i. Softmax and sums in float32.

    Args:
        q: [num_tokens, num_heads, head_dim], any strides.
        pool: [num_layers, num_pages, page_elems]; the new tokens' KV is already in it.

    Returns:
        [num_tokens, num_heads, head_dim], contiguous, q's dtype.
    """
    num_heads, head_dim = q.shape[1:]
    pages = pool[layer].view(-1, 2, batch.page_size, num_kv_heads, head_dim)
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
