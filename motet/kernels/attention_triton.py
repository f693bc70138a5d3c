"""Paged attention in Triton.

Owns: the choice of kernel, split count and tile sizes from shapes that the host knows.
Does not know: who fills the page table.

No wrapper reads a tensor's values, so a captured graph stays right when contexts grow.
"""

import functools

import torch
import triton
from torch import Tensor

from motet.kernels import attention_triton_kernels as kernels
from motet.kernels.attention_checks import check_paged_attention
from motet.kernels.types import AttentionBatch

LOG2_E = 1.4426950408889634
BLOCK_KEYS = 64
MIN_KEYS_PER_SPLIT = 128  # a shorter split costs more to combine than it saves
MAX_SPLITS = 64
PROGRAMS_PER_SM = 2  # in decode, enough to keep the memory busy
MAX_BLOCK_ROWS = 128


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

    The online softmax (Milakov & Gimelshein 2018) over tiles of keys, as in FlashAttention (Dao et
    al. 2022), read through a page table, as in PagedAttention (Kwon et al. 2023). Sequences of one
    new token are cut into splits of their context and combined, as in Flash-Decoding (Dao et al.
    2023); the order of every sum is fixed, so a launch of the same shape gives the same bits.
    Chunks are cut into tiles of (token, head) rows of one group, so that the group shares K and V.

    Args:
        q: [num_tokens, num_heads, head_dim], head_dim a multiple of 16, the pool's dtype. Tokens
            may be any stride apart; heads and elements must be adjacent, else q is copied once.
        pool: [num_layers, num_pages, page_elems], contiguous, float32, bfloat16 or float16.
            The new tokens' KV is already in it. Never read outside the contexts of this batch.
        batch: `max_query_len` and `max_context_len` may be larger than the truth; they size the
            grids. A sequence of context 0 gets zeros.
        scale: factor on the scores.

    Returns:
        [num_tokens, num_heads, head_dim], contiguous, q's dtype. Scores, softmax and sums in
        float32; the weights are rounded to the pool's dtype before they meet V. Rows of tokens
        that belong to no sequence are undefined.
    """
    check_paged_attention(q, pool, batch, num_kv_heads, sliding_window)
    q = _adjacent_heads(q)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if len(q) == 0 or batch.num_seqs == 0:
        return out
    _decode(q, pool[layer], batch, num_kv_heads, scale, sliding_window, out)
    if batch.max_query_len > 1:
        _prefill(q, pool[layer], batch, num_kv_heads, scale, sliding_window, out)
    return out


def _decode(
    q: Tensor,
    pages: Tensor,
    batch: AttentionBatch,
    num_kv_heads: int,
    scale: float,
    sliding_window: int | None,
    out: Tensor,
) -> None:
    """The sequences with one new token."""
    num_heads, head_dim = q.shape[1:]
    num_splits = _num_splits(batch, num_kv_heads, sliding_window, q.device)
    split_shape = (batch.num_seqs, num_heads, num_splits)
    if num_splits > 1:
        sums = q.new_empty((*split_shape, head_dim), dtype=torch.float32)
        stats = q.new_empty((*split_shape, 2), dtype=torch.float32)
    else:
        sums, stats = out, out  # unused: the kernel writes the result
    group = num_heads // num_kv_heads
    block_dim = triton.next_power_of_2(head_dim)
    kernels.decode_kernel[(batch.num_seqs, num_kv_heads, num_splits)](
        q,
        pages,
        batch.page_table,
        batch.query_starts,
        batch.context_lens,
        out,
        sums,
        stats,
        scale * LOG2_E,
        q.stride(0),
        batch.page_table.stride(0),
        num_splits=num_splits,
        window=sliding_window or 0,
        group=group,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        page_size=batch.page_size,
        block_rows=max(16, triton.next_power_of_2(group)),
        block_dim=block_dim,
        block_keys=BLOCK_KEYS,
        num_warps=4,
        num_stages=3 if q.element_size() == 2 else 2,
    )
    if num_splits > 1:
        kernels.combine_kernel[(batch.num_seqs, num_heads)](
            sums,
            stats,
            batch.query_starts,
            out,
            num_splits=num_splits,
            head_dim=head_dim,
            block_splits=triton.next_power_of_2(num_splits),
            block_dim=block_dim,
            num_warps=4,
        )


def _prefill(
    q: Tensor,
    pages: Tensor,
    batch: AttentionBatch,
    num_kv_heads: int,
    scale: float,
    sliding_window: int | None,
    out: Tensor,
) -> None:
    """The sequences with several new tokens."""
    num_tokens, num_heads, head_dim = q.shape
    group = num_heads // num_kv_heads
    most_rows = MAX_BLOCK_ROWS if q.element_size() == 2 else MAX_BLOCK_ROWS // 2
    block_rows = min(most_rows, max(16, triton.next_power_of_2(batch.max_query_len * group)))
    num_tiles = num_tokens * group // block_rows + batch.num_seqs
    kernels.prefill_kernel[(num_tiles, num_kv_heads)](
        q,
        pages,
        batch.page_table,
        batch.query_starts,
        batch.context_lens,
        out,
        scale * LOG2_E,
        q.stride(0),
        batch.page_table.stride(0),
        batch.num_seqs,
        window=sliding_window or 0,
        group=group,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        page_size=batch.page_size,
        block_rows=block_rows,
        block_dim=triton.next_power_of_2(head_dim),
        block_keys=BLOCK_KEYS,
        num_warps=8 if block_rows == MAX_BLOCK_ROWS and head_dim > 64 else 4,
        num_stages=2,
    )


def _num_splits(
    batch: AttentionBatch, num_kv_heads: int, sliding_window: int | None, device: torch.device
) -> int:
    """Splits of a context, as many as fill the chip and are worth their combination."""
    num_keys = batch.max_context_len
    if sliding_window is not None:
        num_keys = min(num_keys, sliding_window)
    wanted = PROGRAMS_PER_SM * _num_sms(device) / (batch.num_seqs * num_kv_heads)
    splits = min(round(wanted), num_keys // MIN_KEYS_PER_SPLIT, MAX_SPLITS)
    return max(1, splits)


@functools.cache
def _num_sms(device: torch.device) -> int:
    if device.type != "cuda":  # the interpreter: any number will do
        return 16
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _adjacent_heads(x: Tensor) -> Tensor:
    """x itself where a token's heads and elements are adjacent, else a copy."""
    if x.stride(2) == 1 and x.stride(1) == x.shape[2]:
        return x
    return x.contiguous()
