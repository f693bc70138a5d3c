# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The Triton programs of paged attention. `attention_triton.py` launches them.

Owns: the programs. Does not know: how many of them run, nor the sizes of their blocks.

Offsets into the pool and into tokens are 64-bit: a pool has more than 2 ** 31 elements.
"""

import triton
import triton.language as tl


@triton.jit
def attend_keys(
    q,
    sums,
    total,
    top,
    pages_ptr,
    table_ptr,
    kv_head,
    positions,
    first,
    end,
    scale,
    window: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_dim: tl.constexpr,
    block_keys: tl.constexpr,
):
    """One step of the online softmax per block of keys in [first, end).

    q is [rows, block_dim], positions [rows]; scale includes log2(e), so that exp2 serves.
    """
    dims = tl.arange(0, block_dim)
    valid_dims = dims < head_dim
    token_elems: tl.constexpr = num_kv_heads * head_dim
    for start in range(first, end, block_keys):
        keys = start + tl.arange(0, block_keys)
        valid_keys = keys < end
        page = tl.load(table_ptr + keys // page_size, mask=valid_keys, other=0).to(tl.int64)
        rows = (page * (2 * page_size) + keys % page_size) * token_elems + kv_head * head_dim
        valid = valid_keys[:, None] & valid_dims[None, :]
        k_ptrs = pages_ptr + rows[:, None] + dims[None, :]
        k = tl.load(k_ptrs, mask=valid, other=0.0)
        v = tl.load(k_ptrs + page_size * token_elems, mask=valid, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        seen = valid_keys[None, :] & (keys[None, :] <= positions[:, None])
        if window > 0:
            seen = seen & (keys[None, :] > positions[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen no key yet has a maximum of -inf, of which no difference may be taken.
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - base[:, None])
        factor = tl.exp2(top - base)
        total = total * factor + tl.sum(weights, 1)
        sums = sums * factor[:, None]
        sums = tl.dot(weights.to(v.dtype), v, sums, input_precision="ieee")
        top = new_top
    return sums, total, top


@triton.jit
def decode_block_ends(
    query_starts_ptr,
    context_lens_ptr,
    num_seqs,
    window: tl.constexpr,
    block_keys: tl.constexpr,
    block_seqs: tl.constexpr,
):
    """Where each sequence's blocks of keys end in the list of all blocks: int32 [block_seqs].

    A sequence that has other than one new token has no block.
    """
    seqs = tl.arange(0, block_seqs)
    valid = seqs < num_seqs
    starts = tl.load(query_starts_ptr + seqs, mask=valid, other=0)
    next_starts = tl.load(query_starts_ptr + seqs + 1, mask=valid, other=0)
    is_decode = valid & (next_starts - starts == 1)
    num_keys = tl.load(context_lens_ptr + seqs, mask=is_decode, other=0)
    if window > 0:
        num_keys = tl.minimum(num_keys, window)
    return tl.cumsum(tl.cdiv(num_keys, block_keys), 0)


@triton.jit
def sequence_at(ends, block):
    """The sequence that a block belongs to, the first of its blocks, and the one after its last."""
    is_before = ends <= block
    seq = tl.sum(is_before.to(tl.int32), 0)
    begin = tl.max(tl.where(is_before, ends, 0), 0)
    end = tl.min(tl.where(is_before, 2**31 - 1, ends), 0)
    return seq, begin, end


@triton.jit(do_not_specialize=["num_seqs"])
def decode_kernel(
    q_ptr,
    pages_ptr,
    page_table_ptr,
    query_starts_ptr,
    context_lens_ptr,
    out_ptr,
    sums_ptr,
    stats_ptr,
    scale,
    q_stride,
    table_stride,
    num_seqs,
    window: tl.constexpr,
    group: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_rows: tl.constexpr,
    block_dim: tl.constexpr,
    block_keys: tl.constexpr,
    block_seqs: tl.constexpr,
):
    """One share of the blocks of keys of all decoding sequences, for the heads of one group.

    A sequence that lies in the share as a whole is finished here. Of the others, which can only be
    the share's first and last, the unscaled sums go to piece 0 and piece 1 of this share.
    """
    kv_head = tl.program_id(0)
    share = tl.program_id(1)
    ends = decode_block_ends(
        query_starts_ptr, context_lens_ptr, num_seqs, window, block_keys, block_seqs
    )
    num_blocks = tl.max(ends, 0)
    share_size = tl.cdiv(num_blocks, tl.num_programs(1))
    share_begin = share * share_size
    share_end = tl.minimum(share_begin + share_size, num_blocks)

    rows = tl.arange(0, block_rows)
    dims = tl.arange(0, block_dim)
    valid = (rows < group)[:, None] & (dims < head_dim)[None, :]
    heads = kv_head * group + rows
    num_heads: tl.constexpr = group * num_kv_heads
    block = share_begin
    while block < share_end:
        seq, begin, end = sequence_at(ends, block)
        stop = tl.minimum(end, share_end)
        token = tl.load(query_starts_ptr + seq).to(tl.int64)
        context_len = tl.load(context_lens_ptr + seq)
        oldest = 0
        if window > 0:
            oldest = tl.maximum(context_len - window, 0)
        q_ptrs = q_ptr + token * q_stride + heads[:, None] * head_dim + dims[None, :]
        q = tl.load(q_ptrs, mask=valid, other=0.0)
        sums, total, top = attend_keys(
            q,
            tl.zeros([block_rows, block_dim], tl.float32),
            tl.zeros([block_rows], tl.float32),
            tl.full([block_rows], float("-inf"), tl.float32),
            pages_ptr,
            page_table_ptr + seq.to(tl.int64) * table_stride,
            kv_head,
            tl.zeros([block_rows], tl.int32) + context_len - 1,
            oldest + (block - begin) * block_keys,
            tl.minimum(oldest + (stop - begin) * block_keys, context_len),
            scale,
            window,
            num_kv_heads,
            head_dim,
            page_size,
            block_dim,
            block_keys,
        )
        if (block == begin) & (stop == end):
            out_ptrs = out_ptr + (token * num_heads + heads)[:, None] * head_dim + dims[None, :]
            result = sums / total[:, None]
            tl.store(out_ptrs, result.to(out_ptr.dtype.element_ty), mask=valid)
        else:
            piece = share * 2 + (block != share_begin).to(tl.int32)
            parts = piece * num_heads + heads
            tl.store(sums_ptr + parts[:, None] * head_dim + dims[None, :], sums, mask=valid)
            tl.store(stats_ptr + parts * 2, top, mask=rows < group)
            tl.store(stats_ptr + parts * 2 + 1, total, mask=rows < group)
        block = stop


@triton.jit(do_not_specialize=["num_seqs"])
def combine_kernel(
    sums_ptr,
    stats_ptr,
    query_starts_ptr,
    context_lens_ptr,
    out_ptr,
    num_seqs,
    window: tl.constexpr,
    num_shares: tl.constexpr,
    head_dim: tl.constexpr,
    block_keys: tl.constexpr,
    block_seqs: tl.constexpr,
    block_shares: tl.constexpr,
    block_dim: tl.constexpr,
):
    """One head of the sequence that is cut for the first time where a share begins, if there is.

    Its pieces in all shares are brought to one maximum and added.
    """
    head = tl.program_id(0)
    share = tl.program_id(1) + 1
    ends = decode_block_ends(
        query_starts_ptr, context_lens_ptr, num_seqs, window, block_keys, block_seqs
    )
    num_blocks = tl.max(ends, 0)
    share_size = tl.cdiv(num_blocks, num_shares)
    if share * share_size >= num_blocks:
        return
    seq, begin, end = sequence_at(ends, share * share_size)
    first_share = begin // share_size
    if first_share != share - 1:  # it begins here and is not cut, or was cut before
        return
    num_heads = tl.num_programs(0)
    dims = tl.arange(0, block_dim)
    shares = first_share + tl.arange(0, block_shares)
    valid = shares * share_size < end
    pieces = shares * 2 + (shares * share_size < begin).to(tl.int32)
    parts = pieces * num_heads + head
    tops = tl.load(stats_ptr + parts * 2, mask=valid, other=float("-inf"))
    totals = tl.load(stats_ptr + parts * 2 + 1, mask=valid, other=0.0)
    sums = tl.load(
        sums_ptr + parts[:, None] * head_dim + dims[None, :],
        mask=valid[:, None] & (dims < head_dim)[None, :],
        other=0.0,
    )
    factors = tl.exp2(tops - tl.max(tops, 0))
    result = tl.sum(sums * factors[:, None], 0) / tl.sum(totals * factors, 0)
    token = tl.load(query_starts_ptr + seq).to(tl.int64)
    out_ptrs = out_ptr + (token * num_heads + head) * head_dim + dims
    tl.store(out_ptrs, result.to(out_ptr.dtype.element_ty), mask=dims < head_dim)


@triton.jit(do_not_specialize=["num_seqs"])
def prefill_kernel(
    q_ptr,
    pages_ptr,
    page_table_ptr,
    query_starts_ptr,
    context_lens_ptr,
    out_ptr,
    scale,
    q_stride,
    table_stride,
    num_seqs,
    window: tl.constexpr,
    group: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_rows: tl.constexpr,
    block_dim: tl.constexpr,
    block_keys: tl.constexpr,
):
    """One tile of `block_rows` (token, head) rows of one sequence and group.

    Sequence s owns the tiles from query_starts[s] * group // block_rows + s on. That leaves each
    sequence enough tiles, and is known without its length; tiles to spare do nothing.
    """
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    seq = tile * 0
    too_far = num_seqs
    while too_far - seq > 1:
        middle = (seq + too_far) // 2
        if tl.load(query_starts_ptr + middle) * group // block_rows + middle <= tile:
            seq = middle
        else:
            too_far = middle
    token_start = tl.load(query_starts_ptr + seq)
    num_queries = tl.load(query_starts_ptr + seq + 1) - token_start
    first_row = (tile - (token_start * group // block_rows + seq)) * block_rows
    if (num_queries == 1) | (first_row >= num_queries * group):
        return
    context_len = tl.load(context_lens_ptr + seq)

    rows = first_row + tl.arange(0, block_rows)
    dims = tl.arange(0, block_dim)
    valid = (rows < num_queries * group)[:, None] & (dims < head_dim)[None, :]
    tokens = (token_start + rows // group).to(tl.int64)
    heads = kv_head * group + rows % group
    q_ptrs = q_ptr + (tokens * q_stride + heads * head_dim)[:, None] + dims[None, :]
    q = tl.load(q_ptrs, mask=valid, other=0.0)
    num_hidden = context_len - num_queries
    last_row = tl.minimum(first_row + block_rows, num_queries * group) - 1
    first = 0
    if window > 0:
        first = tl.maximum(num_hidden + first_row // group - window + 1, 0)
    sums, total, _ = attend_keys(
        q,
        tl.zeros([block_rows, block_dim], tl.float32),
        tl.zeros([block_rows], tl.float32),
        tl.full([block_rows], float("-inf"), tl.float32),
        pages_ptr,
        page_table_ptr + seq * table_stride,
        kv_head,
        num_hidden + rows // group,
        first,
        num_hidden + last_row // group + 1,
        scale,
        window,
        num_kv_heads,
        head_dim,
        page_size,
        block_dim,
        block_keys,
    )
    result = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    num_heads: tl.constexpr = group * num_kv_heads
    out_ptrs = out_ptr + ((tokens * num_heads + heads) * head_dim)[:, None] + dims[None, :]
    tl.store(out_ptrs, result.to(out_ptr.dtype.element_ty), mask=valid)
