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
    num_splits: tl.constexpr,
    window: tl.constexpr,
    group: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_rows: tl.constexpr,
    block_dim: tl.constexpr,
    block_keys: tl.constexpr,
):
    """One split of one sequence's context for the heads of one group."""
    seq = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    token = tl.load(query_starts_ptr + seq).to(tl.int64)
    if tl.load(query_starts_ptr + seq + 1) - token != 1:
        return
    context_len = tl.load(context_lens_ptr + seq)
    oldest = 0
    if window > 0:
        oldest = tl.maximum(context_len - window, 0)
    blocks_per_split = tl.cdiv(tl.cdiv(context_len - oldest, block_keys), num_splits)
    first = oldest + split * blocks_per_split * block_keys
    end = tl.minimum(first + blocks_per_split * block_keys, context_len)

    rows = tl.arange(0, block_rows)
    dims = tl.arange(0, block_dim)
    valid = (rows < group)[:, None] & (dims < head_dim)[None, :]
    heads = kv_head * group + rows
    q_ptrs = q_ptr + token * q_stride + heads[:, None] * head_dim + dims[None, :]
    q = tl.load(q_ptrs, mask=valid, other=0.0)
    sums, total, top = attend_keys(
        q,
        tl.zeros([block_rows, block_dim], tl.float32),
        tl.zeros([block_rows], tl.float32),
        tl.full([block_rows], float("-inf"), tl.float32),
        pages_ptr,
        page_table_ptr + seq * table_stride,
        kv_head,
        tl.zeros([block_rows], tl.int32) + context_len - 1,
        first,
        end,
        scale,
        window,
        num_kv_heads,
        head_dim,
        page_size,
        block_dim,
        block_keys,
    )
    num_heads: tl.constexpr = group * num_kv_heads
    if num_splits == 1:
        result = sums / tl.where(total == 0.0, 1.0, total)[:, None]
        out_ptrs = out_ptr + (token * num_heads + heads)[:, None] * head_dim + dims[None, :]
        tl.store(out_ptrs, result.to(out_ptr.dtype.element_ty), mask=valid)
    else:
        parts = (seq * num_heads + heads) * num_splits + split
        tl.store(sums_ptr + parts[:, None] * head_dim + dims[None, :], sums, mask=valid)
        tl.store(stats_ptr + parts * 2, top, mask=rows < group)
        tl.store(stats_ptr + parts * 2 + 1, total, mask=rows < group)


@triton.jit
def combine_kernel(
    sums_ptr,
    stats_ptr,
    query_starts_ptr,
    out_ptr,
    num_splits: tl.constexpr,
    head_dim: tl.constexpr,
    block_splits: tl.constexpr,
    block_dim: tl.constexpr,
):
    """The splits of one sequence and head, brought to one maximum and added."""
    seq = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    token = tl.load(query_starts_ptr + seq).to(tl.int64)
    if tl.load(query_starts_ptr + seq + 1) - token != 1:
        return
    num_heads = tl.num_programs(1)
    splits = tl.arange(0, block_splits)
    dims = tl.arange(0, block_dim)
    valid = splits < num_splits
    parts = (seq * num_heads + head) * num_splits + splits
    tops = tl.load(stats_ptr + parts * 2, mask=valid, other=float("-inf"))
    totals = tl.load(stats_ptr + parts * 2 + 1, mask=valid, other=0.0)
    top = tl.max(tops, 0)
    factors = tl.exp2(tops - tl.where(top == float("-inf"), 0.0, top))
    sums = tl.load(
        sums_ptr + parts[:, None] * head_dim + dims[None, :],
        mask=valid[:, None] & (dims < head_dim)[None, :],
        other=0.0,
    )
    total = tl.sum(totals * factors, 0)
    result = tl.sum(sums * factors[:, None], 0) / tl.where(total == 0.0, 1.0, total)
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
