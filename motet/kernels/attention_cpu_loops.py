"""The compiled loops behind `attention_cpu.py`: attention over float32 pages, in place.

Owns: the split of the work over threads, the softmax, and which keys a row sees.
Does not know: torch, nor how a tile is computed (`rows_cpu.py`).

A row is a head of a token's q. The rows of one sequence that share a KV head are numbered token by
token; `MOST_VECTORS` of them share what is read of a key. A unit of work is a block of such rows,
for a run of KV heads. Units are shared out by their cost, in keys. Each number of the output is
computed by one thread, in an order that does not depend on their number.
"""

from typing import Any

import numpy as np
from numba import float32, int64, prange
from numpy.typing import NDArray

from motet.kernels.compiled import FASTMATH, compiled, floats, ints
from motet.kernels.math_cpu import exp2
from motet.kernels.rows_cpu import COLUMN_BLOCK, MOST_VECTORS, ROW_BLOCK, add_rows, dot_rows

UNIT_ROWS = 8 * MOST_VECTORS
"""Rows of a unit: they share the list of their keys' places."""

KEYS_AHEAD = 4 * ROW_BLOCK
"""How far ahead keys are asked for: they are short, and memory takes a hundred nanoseconds."""

MIN_SEQS_PER_WORKER = 4
"""With fewer sequences, a token's KV heads are shared out too."""

MIN_COST_PER_LAUNCH = 512
"""Keys: less is done before other threads wake up."""

Pages = tuple[int, int, int, int]
"""Address of one layer of the pool; page_size, KV heads, head_dim."""

Batch = tuple[int, int, int, int, int]
"""Addresses of page_table, query_starts, context_lens (int32); columns of page_table; sequences."""

Rows = tuple[int, int, int]
"""Address of [num_tokens, num_heads, head_dim]; elements from one token to the next; heads."""

Units = NDArray[np.int64]


@compiled()
def _list_units(batch: Batch, group: int, num_kv_heads: int, window: int, num_workers: int) -> Any:
    """The units: (sequence, first row, end row, first and end KV head, cost).

    The KV heads of a sequence's single new token stay together, so that its pages are read end to
    end, unless there are too few sequences to share out. Units of one sequence are neighbours.
    """
    _, query_starts, context_lens, _, num_seqs = batch
    starts, lengths = ints(query_starts, num_seqs + 1), ints(context_lens, num_seqs)
    num_rows = int64(starts[num_seqs] - starts[0]) * group
    units = np.empty(((num_rows // UNIT_ROWS + num_seqs) * num_kv_heads, 6), np.int64)
    are_many = num_seqs >= MIN_SEQS_PER_WORKER * num_workers
    num_units = 0
    for seq in range(num_seqs):
        num_rows = int64(starts[seq + 1] - starts[seq]) * group
        num_hidden = int64(lengths[seq]) - num_rows // group
        together = num_kv_heads if are_many and num_rows == group else 1
        for first_head in range(0, num_kv_heads, together):
            for first_row in range(0, num_rows, UNIT_ROWS):
                end_row = min(first_row + UNIT_ROWS, num_rows)
                num_keys = min(num_hidden + end_row // group, window)
                unit = units[num_units]
                unit[0], unit[1], unit[2] = seq, first_row, end_row
                unit[3], unit[4] = first_head, first_head + together
                unit[5] = num_keys * (end_row - first_row) * together
                num_units += 1
    return units[:num_units]


@compiled()
def _equal_shares(units: Units, num_workers: int) -> Any:
    """Bounds of runs of neighbouring units, one a worker, of nearly the same summed cost.

    Too little work for a launch stays in one run.
    """
    total = int64(0)
    for index in range(len(units)):
        total += units[index, 5]
    num_shares = num_workers if total >= MIN_COST_PER_LAUNCH else 1
    bounds = np.empty(num_shares + 1, np.int64)
    bounds[0] = 0
    share, spent = 1, int64(0)
    for index in range(len(units)):
        cost = units[index, 5]
        while share < num_shares and 2 * spent + cost > 2 * total * share // num_shares:
            bounds[share] = index
            share += 1
        spent += cost
    while share <= num_shares:
        bounds[share] = len(units)
        share += 1
    return bounds


@compiled()
def _find_keys(pages: Pages, table: Any, first: int, end: int, offsets: Any) -> None:
    """Where the K of the keys `first` to `end - 1` lies, for the first KV head: elements."""
    _, page_size, num_kv_heads, head_dim = pages
    token_elems = num_kv_heads * head_dim
    key = first
    for page_index in range(first // page_size, (end - 1) // page_size + 1):
        # Where the first key of all would be if this page were its own and those before it.
        origin = (2 * int64(table[page_index]) - page_index) * page_size * token_elems
        end_in_page = min((page_index + 1) * page_size, end)
        while key < end_in_page:
            offsets[key - first] = origin + key * token_elems
            key += 1


@compiled(fastmath=FASTMATH | {"nnan"})
def _largest(scores: Any) -> Any:
    """The largest of some scores; any number if one is a NaN, which then shows in all weights.

    Only with `nnan` is it vectorized.
    """
    top = scores[0]
    for j in range(len(scores)):
        top = max(top, scores[j])
    return top


@compiled(fastmath=FASTMATH)
def _softmax(scores: Any, low: int, high: int, scale: Any) -> None:
    """Scores to weights, in place: softmax to base 2 over keys low to high - 1, 0 elsewhere."""
    seen = scores[low:high]
    top = _largest(seen)
    total = float32(0)
    for j in range(len(seen)):
        seen[j] = exp2((seen[j] - top) * scale)
        total += seen[j]
    share = float32(1) / total
    for j in range(len(seen)):
        seen[j] *= share
    scores[:low] = 0
    scores[high:] = 0


@compiled()
def _rounded_up(num_rows: int) -> int:
    return (num_rows + MOST_VECTORS - 1) // MOST_VECTORS * MOST_VECTORS


@compiled()
def _list_rows(unit: Any, q: Rows, out: Rows, pages: Pages, batch: Batch, listed: Any) -> Any:
    """The rows of a unit, KV head by KV head.

    Those of each KV head are filled up to a multiple of `MOST_VECTORS` with the last one again.

    Returns:
        int64 [num_rows, 5]: address in q, address in out, position, KV head, and how many rows of
        that head, at most `MOST_VECTORS`, there are from this one on.
    """
    _, _, num_kv_heads, head_dim = pages
    seq, first_row, end_row = unit[0], unit[1], unit[2]
    starts = ints(batch[1] + 4 * seq, 2)
    start, num_new = int64(starts[0]), int64(starts[1] - starts[0])
    num_hidden = int64(ints(batch[2] + 4 * seq, 1)[0]) - num_new
    group = q[2] // num_kv_heads
    num_listed = 0
    for kv_head in range(unit[3], unit[4]):
        for row in range(first_row, first_row + _rounded_up(end_row - first_row)):
            token, head = min(row, end_row - 1) // group, min(row, end_row - 1) % group
            element = (kv_head * group + head) * head_dim
            entry = listed[num_listed]
            entry[0] = q[0] + 4 * ((start + token) * q[1] + element)
            entry[1] = out[0] + 4 * ((start + token) * out[1] + element)
            entry[2], entry[3] = num_hidden + token, kv_head
            entry[4] = min(end_row - row, MOST_VECTORS)
            num_listed += 1
    return listed[:num_listed]


@compiled()
def _four(rows: Any, first: int, column: int) -> Any:
    """What four neighbouring rows have in a column."""
    return (
        rows[first, column],
        rows[first + 1, column],
        rows[first + 2, column],
        rows[first + 3, column],
    )


@compiled()
def _four_scores(scores: Any, first: int, key: int) -> Any:
    """Addresses of the scores of four neighbouring rows, from a key on."""
    stride = 4 * scores.shape[1]
    address = int64(scores.ctypes.data) + first * stride + 4 * key
    return address, address + stride, address + 2 * stride, address + 3 * stride


@compiled()
def _num_visible(rows: Any, row: int, first: int, key: int, block_keys: int) -> Any:
    """Keys of a block that any of the four rows from `row` on sees; not positive if none."""
    return min(key + block_keys, rows[row + MOST_VECTORS - 1, 2] + 1 - first) - key


@compiled()
def _score(rows: Any, first: int, block_keys: int, pages: Pages, offsets: Any, scores: Any) -> None:
    """Write the scores of all rows.

    Args:
        rows: see `_list_rows`.
        first: the key that `offsets` and `scores` begin with.
        block_keys: keys that all rows meet before any meets the next ones.
    """
    base, _, _, head_dim = pages
    places = int64(offsets.ctypes.data)
    end = rows[len(rows) - 1, 2] + 1 - first
    for key in range(0, end, block_keys):
        following = min(key + block_keys, end - 1)
        for row in range(0, len(rows), MOST_VECTORS):
            num_keys = _num_visible(rows, row, first, key, block_keys)
            if num_keys > 0:
                dot_rows(
                    rows[row, 4],
                    base + 4 * rows[row, 3] * head_dim,
                    places + 8 * key,
                    num_keys,
                    head_dim,
                    places + 8 * following,
                    min(block_keys, end - following),
                    min(block_keys, KEYS_AHEAD),
                    _four(rows, row, 0),
                    _four_scores(scores, row, key),
                )


@compiled()
def _weigh(rows: Any, first: int, block_keys: int, pages: Pages, offsets: Any, scores: Any) -> None:
    """Add the weighted sums of V to the out of all rows; arguments as for `_score`."""
    base, page_size, num_kv_heads, head_dim = pages
    base += 4 * page_size * num_kv_heads * head_dim
    places = int64(offsets.ctypes.data)
    ones = np.ones(MOST_VECTORS, np.float32)
    end = rows[len(rows) - 1, 2] + 1 - first
    for key in range(0, end, block_keys):
        following = min(key + block_keys, end - 1)
        for row in range(0, len(rows), MOST_VECTORS):
            num_keys = _num_visible(rows, row, first, key, block_keys)
            if num_keys <= 0:
                continue
            out = _four(rows, row, 1)
            for column in range(0, head_dim, COLUMN_BLOCK):
                skip = 4 * column
                values = base + 4 * rows[row, 3] * head_dim + skip
                add_rows(
                    rows[row, 4],
                    values,
                    places + 8 * key,
                    num_keys,
                    min(COLUMN_BLOCK, head_dim - column),
                    values,
                    places + 8 * following,
                    min(block_keys, end - following),
                    int64(ones.ctypes.data),
                    _four_scores(scores, row, key),
                    (out[0] + skip, out[1] + skip, out[2] + skip, out[3] + skip),
                )


@compiled()
def _attend_unit(
    rows: Any, pages: Pages, table: Any, window: int, scale: Any, offsets: Any, scores: Any
) -> None:
    """Scores, softmax and weighted sums of the rows of a unit.

    A single token takes its keys a page's worth at a time, for all KV heads of the unit, so that
    memory is read from end to end; so it does if there is but one, lest the order of its sums
    depend on how units are cut. Those of a chunk stay in the cache, and each head takes them at
    once.
    """
    _, page_size, _, head_dim = pages
    first = max(rows[0, 2] - window + 1, 0)
    end = rows[len(rows) - 1, 2] + 1
    _find_keys(pages, table, first, end, offsets)
    block_keys = page_size if rows[0, 2] == rows[len(rows) - 1, 2] else end - first
    _score(rows, first, block_keys, pages, offsets, scores)
    for row in range(len(rows)):
        last_of_four = row // MOST_VECTORS * MOST_VECTORS + MOST_VECTORS - 1
        num_keys = rows[last_of_four, 2] + 1 - first
        low = max(rows[row, 2] - window + 1 - first, 0)
        _softmax(scores[row, :num_keys], low, rows[row, 2] + 1 - first, scale)
        floats(rows[row, 1], 0, head_dim)[:] = 0
    _weigh(rows, first, block_keys, pages, offsets, scores)


@compiled()
def _work_off(
    units: Units, q: Rows, out: Rows, pages: Pages, batch: Batch, window: int, scale: Any
) -> None:
    """Units of work, one after another."""
    max_context_len = int64(0)
    for context_len in ints(batch[2], batch[4]):
        max_context_len = max(max_context_len, int64(context_len))
    most_rows = max(UNIT_ROWS, q[2] + pages[2] * MOST_VECTORS)
    listed = np.empty((most_rows, 5), np.int64)
    offsets = np.empty(max_context_len, np.int64)
    scores = np.empty((most_rows, max_context_len + ROW_BLOCK), np.float32)
    for index in range(len(units)):
        unit = units[index]
        table = ints(batch[0] + 4 * unit[0] * batch[3], batch[3])
        rows = _list_rows(unit, q, out, pages, batch, listed)
        _attend_unit(rows, pages, table, window, scale, offsets, scores)


@compiled(parallel=True)
def attend_batch(
    q: Rows, out: Rows, pages: Pages, batch: Batch, window: int, scale: Any, num_workers: int
) -> None:
    """Attention of a whole batch.

    Args:
        q, out: see `Rows`.
        pages, batch: see there; the page table's rows are adjacent.
        window: how many keys a row sees at most.
        scale: float32, factor on the scores, log2(e) included: so exp2 serves.
        num_workers: shares that the work is divided into.
    """
    units = _list_units(batch, q[2] // pages[2], pages[2], window, num_workers)
    bounds = _equal_shares(units, num_workers)
    if len(bounds) == 2:
        _work_off(units, q, out, pages, batch, window, scale)
    else:
        for share in prange(len(bounds) - 1):
            mine = units[bounds[share] : bounds[share + 1]]
            _work_off(mine, q, out, pages, batch, window, scale)
