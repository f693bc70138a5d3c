# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,import-untyped"
"""The compiled loops behind `attention_cpu.py`: attention over float32 pages, in place.

Owns: the split of the work over threads, and two inner kernels: one token, or a tile of many rows.
Does not know: torch.

All of them are in this file because Numba's cache does not see changes in another. Common
arguments: `kv`, one layer of the pool, flat; `page_shape`, (page_size, KV heads, head_dim);
`table`, the page ids of the sequence; `scale` includes log2(e), so that exp2 serves; `window`, how
many keys a token sees at most.

Units of work are shared out by their cost, in units of one key for one KV head of one token. Each
number of the output is computed by one thread, in an order that does not depend on their number.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange
from numba.core import cgutils, types
from numba.extending import intrinsic

TILE_ROWS = 64  # (token, head) rows of a prefill tile: a multiple of every SIMD width
LINE_ELEMS = 16  # float32 in a cache line
KEYS_AT_ONCE = 4  # keys that share what is read of q or of the sums, token by token
UNROLL = 8  # products of a tile that are summed in registers
MAX_ROWS_BY_TOKEN = 12  # a chunk of at most so many rows is cheaper token by token than as a tile
TILE_COST = 4  # a key costs a tile about so many times what it costs a single token
MIN_SEQS_PER_WORKER = 4  # with fewer, a sequence's KV heads are shared out too
MIN_COST_PER_LAUNCH = 512  # less is done before other threads wake up
FAR_BELOW = np.float32(-1e30)  # a masked score; finite, so that differences of two are no NaN

# Sums may be reordered and fused. NaN and infinity keep their meaning: a request whose numbers
# overflow has to be seen as such, and not become a plausible number.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}
_U = np.uint64  # indices of inner loops: a signed one may wrap around, which stops vectorization


@njit(cache=True)
def write_kv(k, k_stride, v, v_stride, kv, page_size, token_elems, kv_slots):
    """Rows of k and v, flat with a stride, to their slots. Elements of 2 or 4 bytes, as integers.

    A page has the K of all its tokens, then their V.
    """
    side_elems = page_size * token_elems
    for t in range(len(kv_slots)):
        page, slot = kv_slots[t] // page_size, kv_slots[t] % page_size
        to = page * 2 * side_elems + slot * token_elems
        kv[to : to + token_elems] = k[t * k_stride : t * k_stride + token_elems]
        to += side_elems
        kv[to : to + token_elems] = v[t * v_stride : t * v_stride + token_elems]


@njit(parallel=True, fastmath=_FASTMATH, cache=True)
def attend_batch(
    q, q_stride, kv, page_shape, page_table, query_starts, context_lens, scale, window,
    num_workers, out,
):  # fmt: skip
    """Attention of a whole batch, into `out` [num_tokens, num_heads, head_dim]."""
    num_kv_heads = page_shape[1]
    group = out.shape[1] // num_kv_heads
    items = _list_items(query_starts, context_lens, group, num_kv_heads, window, num_workers)
    bounds = _equal_shares(items, num_workers)
    if len(bounds) == 2:
        _work_off(
            items, q, q_stride, kv, page_shape, page_table, query_starts, context_lens, scale,
            window, out,
        )  # fmt: skip
        return
    for share in prange(len(bounds) - 1):
        _work_off(
            items[bounds[share] : bounds[share + 1]], q, q_stride, kv, page_shape, page_table,
            query_starts, context_lens, scale, window, out,
        )  # fmt: skip


@njit(fastmath=_FASTMATH, cache=True)
def _work_off(
    items, q, q_stride, kv, page_shape, page_table, query_starts, context_lens, scale, window, out
):
    """Units of work, one after another."""
    page_size, num_kv_heads, head_dim = page_shape
    group = out.shape[1] // num_kv_heads
    token_scratch = _token_scratch(out.shape[1], head_dim, context_lens)
    tile_scratch = _tile_scratch(page_size, head_dim)
    for index in range(len(items)):
        item = items[index]
        seq, row, first_head, end_head = item[0], item[1], item[2], item[3]
        start = query_starts[seq]
        num_queries = query_starts[seq + 1] - start
        first_position = context_lens[seq] - num_queries
        if _goes_by_token(num_queries, group):
            _attend_token(
                q, (start + row) * q_stride, kv, page_shape, page_table[seq], first_head, end_head,
                first_position + row, scale, window, token_scratch, out[start + row],
            )  # fmt: skip
        else:
            _attend_tile(
                q, start, q_stride, kv, page_shape, page_table[seq], first_head, row,
                num_queries * group, first_position, scale, window, tile_scratch, out,
            )  # fmt: skip


@njit(cache=True)
def _goes_by_token(num_queries, group):
    return num_queries == 1 or num_queries * group <= MAX_ROWS_BY_TOKEN


@njit(cache=True)
def _list_items(query_starts, context_lens, group, num_kv_heads, window, num_workers):
    """The units of work: (sequence, token or first row of a tile, first and end KV head, cost).

    A token's KV heads stay together, so that its pages are read end to end, unless there are too
    few tokens to share out. Units of one sequence are neighbours: what one has read of a page
    beside its own head may still be in cache for the next.
    """
    num_seqs = len(context_lens)
    together = num_kv_heads if num_seqs >= MIN_SEQS_PER_WORKER * num_workers else 1
    num_tokens = query_starts[num_seqs] - query_starts[0]
    most_rows = num_tokens + num_tokens * group // TILE_ROWS + num_seqs
    items = np.empty((most_rows * num_kv_heads, 5), np.int64)
    num_items = 0
    for seq in range(num_seqs):
        num_queries = query_starts[seq + 1] - query_starts[seq]
        num_hidden = context_lens[seq] - num_queries
        if _goes_by_token(num_queries, group):
            num_rows, rows_per_item, heads, cost = num_queries, 1, together, together
        else:
            num_rows, rows_per_item, heads, cost = num_queries * group, TILE_ROWS, 1, TILE_COST
        for row in range(0, num_rows, rows_per_item):
            num_keys = min(num_hidden + row * num_queries // num_rows + 1, window)
            for head in range(0, num_kv_heads, heads):
                item = items[num_items]
                item[0], item[1], item[2] = seq, row, head
                item[3], item[4] = head + heads, num_keys * cost
                num_items += 1
    return items[:num_items]


@njit(cache=True)
def _equal_shares(items, num_workers):
    """Bounds of runs of neighbouring units, one a worker, of nearly the same summed cost.

    Too little work for a launch stays in one run.
    """
    total = 0
    for index in range(len(items)):
        total += items[index, 4]
    num_shares = num_workers if total >= MIN_COST_PER_LAUNCH else 1
    bounds = np.empty(num_shares + 1, np.int64)
    bounds[0] = 0
    share, spent = 1, 0
    for index in range(len(items)):
        cost = items[index, 4]
        while share < num_shares and 2 * spent + cost > 2 * total * share // num_shares:
            bounds[share] = index
            share += 1
        spent += cost
    while share <= num_shares:
        bounds[share] = len(items)
        share += 1
    return bounds


@njit(cache=True)
def _token_scratch(num_heads, head_dim, context_lens):
    """q, scores, sums."""
    max_context_len = 0
    for context_len in context_lens:
        max_context_len = max(max_context_len, context_len)
    return (
        np.empty((num_heads, head_dim), np.float32),
        np.empty((num_heads, max_context_len + KEYS_AT_ONCE), np.float32),
        np.empty((num_heads, head_dim), np.float32),
    )


@njit(cache=True)
def _tile_scratch(page_size, head_dim):
    """q, scores, sums, (maximum, total, factor), positions.

    Scores and sums are pairs of arrays, for even and odd keys and elements. The inner loops of the
    two products write a row of each: LLVM sees that no write meets a read, which it does not for
    two rows of one array, and uses SIMD.
    """
    half_page = -(-page_size // UNROLL) * UNROLL // 2
    return (
        np.empty((head_dim, TILE_ROWS), np.float32),
        (
            np.empty((half_page, TILE_ROWS), np.float32),
            np.empty((half_page, TILE_ROWS), np.float32),
        ),
        (
            np.empty((head_dim // 2, TILE_ROWS), np.float32),
            np.empty((head_dim // 2, TILE_ROWS), np.float32),
        ),
        (
            np.empty(TILE_ROWS, np.float32),
            np.empty(TILE_ROWS, np.float32),
            np.empty(TILE_ROWS, np.float32),
        ),
        np.empty(TILE_ROWS, np.int64),
    )


@njit(fastmath=_FASTMATH, cache=True)
def _exp2(x):
    """2 ** x for x <= 0, to 3e-7 relative; 0 below the smallest normal number.

    Splits x into an integer, which becomes the exponent's bits, and a rest within half of zero,
    for which the Taylor series of degree 6 is enough. Made of operations that LLVM vectorizes.
    """
    whole = np.int32(x - np.float32(0.5))
    rest = x - np.float32(whole)
    series = np.float32(1.5403530e-4)
    series = series * rest + np.float32(1.3333558e-3)
    series = series * rest + np.float32(9.6181291e-3)
    series = series * rest + np.float32(5.5504109e-2)
    series = series * rest + np.float32(2.4022651e-1)
    series = series * rest + np.float32(6.9314718e-1)
    series = series * rest + np.float32(1.0)
    power = np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(0.0) if x < np.float32(-126.0) else series * power


@intrinsic
def _prefetch(typing_context, array, index):
    """Ask for the cache line of array[index]; any index does no harm."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte_pointer, int32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte_pointer, int32, int32, int32]),
            "llvm.prefetch.p0",
        )
        address = builder.bitcast(builder.gep(data, [args[1]]), byte_pointer)
        builder.call(function, [address, int32(0), int32(3), int32(1)])  # to read, near, data
        return context.get_dummy_value()

    return types.void(array, index), generate


@njit(fastmath=_FASTMATH, cache=True)
def _attend_token(
    q_all, q_start, kv, page_shape, table, first_head, end_head, position, scale, window, scratch,
    out,
):  # fmt: skip
    """One token, the query heads of a run of KV heads."""
    q, scores, acc = scratch
    group = len(q) // page_shape[1]
    head_dim = page_shape[2]
    heads = range(first_head * group, end_head * group)
    first = max(0, position - window + 1)
    for h in heads:
        for d in range(head_dim):
            q[h, d] = scale * q_all[q_start + h * head_dim + d]
            acc[h, d] = 0.0
    _over_pages(kv, 0, page_shape, table, first_head, end_head, first, position + 1, q, scores, acc)
    for h in heads:
        _softmax(scores[h], position + 1 - first)
    _over_pages(kv, 1, page_shape, table, first_head, end_head, first, position + 1, q, scores, acc)
    for h in heads:
        for d in range(head_dim):
            out[h, d] = acc[h, d]


@njit(fastmath=_FASTMATH, cache=True)
def _over_pages(
    kv, side, page_shape, table, first_head, end_head, first, end, q, scores, acc
):  # fmt: skip
    """Side 0: scores[h, j] = q[h] . K[first + j]. Side 1: acc[h] += scores[h, j] V[first + j].

    `KEYS_AT_ONCE` keys share what is read of q or acc. The next page is prefetched row by row:
    the hardware does not know where it is.
    """
    page_size = page_shape[0]
    head_dim, token_elems = _U(page_shape[2]), _U(page_shape[1] * page_shape[2])
    group = _U(len(q) // page_shape[1])
    last_page = (end - 1) // page_size
    for page_index in range(first // page_size, last_page + 1):
        page = _side_start(table[page_index], side, page_size, token_elems)
        next_page = _side_start(table[min(page_index + 1, last_page)], side, page_size, token_elems)
        low = max(first - page_index * page_size, 0)
        high = min(end - page_index * page_size, page_size)
        for slot in range(low, high, KEYS_AT_ONCE):
            for row in _four_rows(next_page, token_elems, _U(slot), high):
                for line in range(
                    _U(first_head) * head_dim, _U(end_head) * head_dim, _U(LINE_ELEMS)
                ):
                    _prefetch(kv, row + line)
            j = _U(page_index * page_size + slot - first)
            for kv_head in range(_U(first_head), _U(end_head)):
                rows = _four_rows(page + kv_head * head_dim, token_elems, _U(slot), high)
                for h in range(kv_head * group, (kv_head + _U(1)) * group):
                    if side == 0:
                        _score_keys(kv, rows, q, h, j, scores)
                    else:
                        _add_values(kv, rows, scores, h, j, high - slot, acc)


@njit(cache=True)
def _side_start(page, side, page_size, token_elems):
    """Where the K (side 0) or V (side 1) of a page begins. Unsigned: no index wraps around."""
    return _U(2 * page + side) * _U(page_size) * token_elems


@njit(cache=True)
def _four_rows(start, token_elems, j, num_keys):
    """Where the tokens j to j + 3 begin; past the last one, the last one again."""
    last = _U(num_keys) - _U(1)
    return (
        start + j * token_elems,
        start + min(j + _U(1), last) * token_elems,
        start + min(j + _U(2), last) * token_elems,
        start + min(j + _U(3), last) * token_elems,
    )


@njit(fastmath=_FASTMATH, cache=True)
def _score_keys(kv, rows, q, h, j, scores):
    k0, k1, k2, k3 = rows
    s0 = s1 = s2 = s3 = np.float32(0.0)
    for d in range(_U(q.shape[1])):
        s0 += q[h, d] * kv[k0 + d]
        s1 += q[h, d] * kv[k1 + d]
        s2 += q[h, d] * kv[k2 + d]
        s3 += q[h, d] * kv[k3 + d]
    scores[h, j], scores[h, j + _U(1)], scores[h, j + _U(2)], scores[h, j + _U(3)] = s0, s1, s2, s3


@njit(fastmath=_FASTMATH, cache=True)
def _add_values(kv, rows, weights, h, j, num_keys, acc):
    """The first `num_keys` of `KEYS_AT_ONCE`; the rest are repetitions, at weight 0."""
    k0, k1, k2, k3 = rows
    zero = np.float32(0.0)
    w0 = weights[h, j]
    w1 = weights[h, j + _U(1)] if num_keys > 1 else zero
    w2 = weights[h, j + _U(2)] if num_keys > 2 else zero
    w3 = weights[h, j + _U(3)] if num_keys > 3 else zero
    for d in range(_U(acc.shape[1])):
        acc[h, d] += w0 * kv[k0 + d] + w1 * kv[k1 + d] + w2 * kv[k2 + d] + w3 * kv[k3 + d]


@njit(fastmath=_FASTMATH, cache=True)
def _softmax(scores, num_keys):
    """softmax of scores[:num_keys] in place, to base 2."""
    top = FAR_BELOW
    for j in range(num_keys):
        top = scores[j] if scores[j] > top else top
    total = np.float32(0.0)
    for j in range(num_keys):
        scores[j] = _exp2(scores[j] - top)
        total += scores[j]
    for j in range(num_keys):
        scores[j] /= total


@njit(fastmath=_FASTMATH, cache=True)
def _attend_tile(
    q_all, start, q_stride, kv, page_shape, table, kv_head, first_row, num_rows, first_position,
    scale, window, scratch, out,
):  # fmt: skip
    """`TILE_ROWS` (token, head) rows of one group against the keys that any of them sees."""
    q, scores, acc, stats, positions = scratch
    page_size, num_kv_heads, head_dim = page_shape
    token_elems = _U(num_kv_heads * head_dim)
    group = out.shape[1] // num_kv_heads
    num_rows = min(TILE_ROWS, num_rows - first_row)
    for r in range(TILE_ROWS):
        row = first_row + min(r, num_rows - 1)  # rows to spare repeat the last one
        positions[r] = first_position + row // group
        q_start = (start + row // group) * q_stride + (kv_head * group + row % group) * head_dim
        for d in range(head_dim):
            q[d, r] = scale * q_all[q_start + d]
    acc[0][:] = 0.0
    acc[1][:] = 0.0
    stats[0][:] = FAR_BELOW
    stats[1][:] = 0.0
    first = max(0, positions[0] - window + 1)
    end = positions[TILE_ROWS - 1] + 1
    for page_index in range(first // page_size, (end - 1) // page_size + 1):
        low = max(first - page_index * page_size, 0)
        num_keys = min(end - page_index * page_size, page_size) - low
        skip = _U(low) * token_elems + _U(kv_head * head_dim)
        keys = _side_start(table[page_index], 0, page_size, token_elems) + skip
        values = _side_start(table[page_index], 1, page_size, token_elems) + skip
        _tile_scores(q, kv, keys, token_elems, num_keys, scores)
        first_key = page_index * page_size + low
        if (
            first_key + num_keys - 1 > positions[0]
            or first_key <= positions[TILE_ROWS - 1] - window
        ):
            _hide(scores, first_key, num_keys, positions, window)
        _tile_softmax(scores, num_keys, stats, acc)
        _tile_accumulate(scores, kv, values, token_elems, num_keys, acc)
    even, odd = acc
    total = stats[1]
    for r in range(num_rows):
        row = first_row + r
        token, head = start + row // group, kv_head * group + row % group
        for i in range(head_dim // 2):
            out[token, head, 2 * i] = even[i, r] / total[r]
            out[token, head, 2 * i + 1] = odd[i, r] / total[r]


@njit(fastmath=_FASTMATH, cache=True)
def _hide(scores, first_key, num_keys, positions, window):
    """Mask the keys after a row's own position, and those that its window has left behind."""
    for j in range(num_keys):
        part = scores[j % 2]
        for r in range(TILE_ROWS):
            behind = positions[r] - (first_key + j)
            if behind < 0 or behind >= window:
                part[j // 2, r] = FAR_BELOW


@njit(fastmath=_FASTMATH, cache=True)
def _tile_softmax(scores, num_keys, stats, acc):
    """Scores to weights relative to the running maximum; what came before is scaled to it.

    A row that has seen only masked keys takes them at weight 1; its first real score scales that
    away, to exactly 0.
    """
    top, total, factor = stats
    for r in range(TILE_ROWS):
        factor[r] = top[r]
    for j in range(num_keys):
        part, i = scores[j % 2], _U(j) // _U(2)
        for r in range(_U(TILE_ROWS)):
            top[r] = part[i, r] if part[i, r] > top[r] else top[r]
    for r in range(TILE_ROWS):
        factor[r] = _exp2(factor[r] - top[r])
        total[r] *= factor[r]
    for part in acc:
        for d in range(_U(len(part))):
            for r in range(_U(TILE_ROWS)):
                part[d, r] *= factor[r]
    for j in range(num_keys):
        part, i = scores[j % 2], _U(j) // _U(2)
        for r in range(_U(TILE_ROWS)):
            part[i, r] = _exp2(part[i, r] - top[r])
            total[r] += part[i, r]
    for j in range(num_keys, -(-num_keys // UNROLL) * UNROLL):
        scores[j % 2][j // 2] = 0.0


@njit(fastmath=_FASTMATH, cache=True)
def _tile_scores(q, kv, keys, token_elems, num_keys, scores):
    """scores[j] = K[j] . q for every row; K[j] is at keys + j * token_elems."""
    even, odd = scores
    for j in range(_U(0), _U(num_keys), _U(2)):
        i = j // _U(2)
        key = keys + j * token_elems
        next_key = key + token_elems if j + _U(1) < _U(num_keys) else key
        for r in range(_U(TILE_ROWS)):
            even[i, r] = 0.0
            odd[i, r] = 0.0
        for d in range(_U(0), _U(q.shape[0]), _U(UNROLL)):
            a, b = _eight_adjacent(kv, key + d), _eight_adjacent(kv, next_key + d)
            for r in range(_U(TILE_ROWS)):
                x = (
                    q[d, r], q[d + _U(1), r], q[d + _U(2), r], q[d + _U(3), r],
                    q[d + _U(4), r], q[d + _U(5), r], q[d + _U(6), r], q[d + _U(7), r],
                )  # fmt: skip
                even[i, r] += _dot8(a, x)
                odd[i, r] += _dot8(b, x)


@njit(fastmath=_FASTMATH, cache=True)
def _tile_accumulate(weights, kv, values, token_elems, num_keys, acc):
    """acc[d] += sum_j weights[j] V[j, d]; V[j] is at values + j * token_elems.

    The rows of `weights` up to the next multiple of `UNROLL` are zero.
    """
    even_weights, odd_weights = weights
    even, odd = acc
    for j in range(_U(0), _U(num_keys), _U(UNROLL)):
        w = j // _U(2)
        for i in range(_U(len(even))):
            value = values + j * token_elems + _U(2) * i
            a = _eight_apart(kv, value, token_elems, _U(num_keys) - j)
            b = _eight_apart(kv, value + _U(1), token_elems, _U(num_keys) - j)
            for r in range(_U(TILE_ROWS)):
                x = (
                    even_weights[w, r], odd_weights[w, r],
                    even_weights[w + _U(1), r], odd_weights[w + _U(1), r],
                    even_weights[w + _U(2), r], odd_weights[w + _U(2), r],
                    even_weights[w + _U(3), r], odd_weights[w + _U(3), r],
                )  # fmt: skip
                even[i, r] += _dot8(a, x)
                odd[i, r] += _dot8(b, x)


@njit(cache=True)
def _eight_adjacent(kv, i):
    return (
        kv[i], kv[i + _U(1)], kv[i + _U(2)], kv[i + _U(3)],
        kv[i + _U(4)], kv[i + _U(5)], kv[i + _U(6)], kv[i + _U(7)],
    )  # fmt: skip


@njit(cache=True)
def _eight_apart(kv, i, step, num_valid):
    """One element of eight tokens; past the last valid one, that one again."""
    last = num_valid - _U(1)
    return (
        kv[i], kv[i + min(_U(1), last) * step],
        kv[i + min(_U(2), last) * step], kv[i + min(_U(3), last) * step],
        kv[i + min(_U(4), last) * step], kv[i + min(_U(5), last) * step],
        kv[i + min(_U(6), last) * step], kv[i + min(_U(7), last) * step],
    )  # fmt: skip


@njit(fastmath=_FASTMATH, cache=True)
def _dot8(a, b):
    return (
        a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
        + a[4] * b[4] + a[5] * b[5] + a[6] * b[6] + a[7] * b[7]
    )  # fmt: skip
