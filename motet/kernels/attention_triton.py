"""Paged attention in Triton.

Owns: the choice of kernel, grids and tile sizes from shapes that the host knows.
Does not know: who fills the page table.

No wrapper reads a tensor's values, so a captured graph stays right when contexts grow, and as fast:
the device itself shares out the work of a decode by the true lengths of the contexts. The block of
keys, the shares and the warps are chosen from what an H100's compiler reports (registers, shared
memory, loads ahead) and from arithmetic, not yet from times.
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
SHARES_PER_SM = 3  # as many programs of 64 keys of a 16-bit head_dim of 128 fit an SM's memory
MAX_SHARES = 128  # of one KV head; combine holds as many rows of sums
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
    new token are laid end to end and cut into equal shares, one for each program, whatever their
    lengths, as in Stream-K (Osama et al. 2023) and LeanAttention (Sanovar et al. 2024); the pieces
    of a cut sequence are combined as in Flash-Decoding (Dao et al. 2023). The order of every sum
    follows from the lengths in the batch, so the same batch gives the same bits.
    Chunks are cut into tiles of (token, head) rows of one group, so that the group shares K and V.

    Args:
        q: [num_tokens, num_heads, head_dim], head_dim a multiple of 16, the pool's dtype. Tokens
            may be any stride apart; heads and elements must be adjacent, else q is copied once.
        pool: [num_layers, num_pages, page_elems], contiguous, float32, bfloat16 or float16.
            The new tokens' KV is already in it. Never read outside the contexts of this batch.
        batch: `max_query_len` and `max_context_len` may be larger than the truth; they bound the
            grids. A sequence without a new token is passed over.
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
    group = num_heads // num_kv_heads
    num_shares = _num_shares(batch, num_kv_heads, sliding_window, q.device)
    pieces = (num_shares, 2, num_heads)
    sums = q.new_empty((*pieces, head_dim), dtype=torch.float32)
    stats = q.new_empty((*pieces, 2), dtype=torch.float32)
    window = sliding_window or 0
    block_dim = triton.next_power_of_2(head_dim)
    block_seqs = triton.next_power_of_2(batch.num_seqs)
    # KV heads vary fastest: programs that run together then read neighbouring memory.
    kernels.decode_kernel[(num_kv_heads, num_shares)](
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
        batch.num_seqs,
        window=window,
        group=group,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        page_size=batch.page_size,
        block_rows=max(16, triton.next_power_of_2(group)),
        block_dim=block_dim,
        block_keys=BLOCK_KEYS,
        block_seqs=block_seqs,
        num_warps=4,
        num_stages=_num_stages(q),
    )
    if num_shares == 1:
        return
    kernels.combine_kernel[(num_heads, num_shares - 1)](
        sums,
        stats,
        batch.query_starts,
        batch.context_lens,
        out,
        batch.num_seqs,
        window=window,
        num_shares=num_shares,
        head_dim=head_dim,
        block_keys=BLOCK_KEYS,
        block_seqs=block_seqs,
        block_shares=triton.next_power_of_2(num_shares),
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
        num_stages=_num_stages(q),
    )


def _num_shares(
    batch: AttentionBatch, num_kv_heads: int, sliding_window: int | None, device: torch.device
) -> int:
    """Shares of the blocks of keys: as many as run at once, but none without a block."""
    num_keys = batch.max_context_len
    if sliding_window is not None:
        num_keys = min(num_keys, sliding_window)
    most_blocks = batch.num_seqs * -(-num_keys // BLOCK_KEYS)
    at_once = SHARES_PER_SM * _num_sms(device) // num_kv_heads
    return max(1, min(at_once, most_blocks, MAX_SHARES))


def _num_stages(q: Tensor) -> int:
    """Depth of the pipeline over blocks of keys.

    A block's page ids are read before its K and V can be, so Triton gives a block two stages: with
    fewer than five, the next block is not on its way while this one is computed. float32 has no
    room for two.
    """
    return 5 if q.element_size() == 2 else 2


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
