"""The compiled loops behind `lora_cpu.py`: rank rows read in place from the page pool, float32.

Owns: how the work of one shrink or expand is divided among threads and cut into tiles.
Does not know: torch, nor how a tile is computed (`rows_cpu.py`). A tensor comes in as the address
of its first element, because a dispatch with tuples of integers costs a fifth of one with arrays;
the callers check what lies there.

The work is a list of runs, one for each segment and projection that has rank rows. What is read of
a run costs `READ_COST`, and once more for each token it serves. Each thread takes an equal share
of the summed cost, whatever the mix of ranks: some runs, divided between blocks of rank rows for
shrink and between blocks of columns for expand. Where a token has several pairs, an expand is
divided by columns alone: a thread goes through all runs, for its columns of y. So every number of
v and y is computed by one thread, always in the same order, and results do not depend on how many
threads there are. Reading half of each row is dearer, by 14 % for 32 adapters of one token each,
so the first way stays for plain batches. Rounds (see `types.LoraPairs`) need no other attention.
"""

from typing import Any

import numpy as np
from numba import carray, int16, int32, int64, prange
from numpy.typing import NDArray

from motet.kernels.compiled import compiled, ints, pointer
from motet.kernels.rows_cpu import COLUMN_BLOCK, MOST_VECTORS, ROW_BLOCK, add_rows, dot_rows
from motet.kernels.simd_cpu import LANES

READ_COST = 16
"""Cost of reading a row from memory, in units of one token's arithmetic with it in cache."""

PARALLEL_MIN_COST = 512 * 1024
"""Below this cost [elements] the work takes less time than waking the other threads."""

GATHER_PARALLEL_MIN_BYTES = 2 * 1024 * 1024
"""Likewise, for copying."""

Tables = tuple[int, int, int, int, int]
"""Addresses of row_offsets, run_starts, ranks; the layer's first entry in a slot; a slot's size."""

Pairs = tuple[int, int, int, int, int, int, int]
"""Addresses of tokens, slots, segment_starts and of the siblings' bits, 0 for all siblings;
num_segments; pairs of the longest segment to do; 1 if a token may have several pairs."""

Siblings = tuple[int, int]
"""Address of int32 [n, 3] (module, out_start, out_features); n."""

Partial = tuple[int, int, int]
"""Address of v, float32; elements from one pair to the next, and from one projection to the next:
0 where each pair is for one projection alone."""

Rows = tuple[int, int, int]
"""Address of float32 rows, elements from one to the next, and how many of them are used."""

Plan = NDArray[np.int64]


@compiled()
def _plan(tables: Tables, pairs: Pairs, siblings: Siblings, side: int) -> Any:
    """The runs of a batch, of A (side 0) or B (1).

    Returns:
        int64 [num_runs, 5]: first pair, last pair (exclusive), projection, rank, first entry in
        `row_offsets`.
    """
    _, run_starts, ranks, table_base, table_stride = tables
    _, slots, segment_starts, masks, num_segments, longest_segment, _ = pairs
    projections, num_projections = siblings
    starts = ints(segment_starts, num_segments + 1)
    slot_of = ints(slots, starts[num_segments])
    modules = ints(projections, 3 * num_projections)
    plan = np.empty((num_segments * num_projections, 5), np.int64)
    num_runs = 0
    for segment in range(num_segments):
        start, end = starts[segment], starts[segment + 1]
        if start == end or end - start > longest_segment:
            continue
        mask = -1 if masks == 0 else int64(ints(masks + 4 * start, 1)[0])
        slot_entry = slot_of[start] * table_stride + table_base
        for s in range(num_projections):
            entry = slot_entry + modules[3 * s]
            rank = int64(ints(ranks + 4 * entry, 1)[0])
            if rank == 0 or (mask >> s) & 1 == 0:
                continue
            run = plan[num_runs]
            run[0], run[1], run[2], run[3] = start, end, s, rank
            run[4] = ints(run_starts + 8 * entry, 2)[side]
            num_runs += 1
    return plan[:num_runs]


@compiled()
def _unit_cost(run: Plan) -> Any:
    """What one rank row of a run costs, in reading it and in serving the run's pairs."""
    return int64(READ_COST + run[1] - run[0])


@compiled()
def _num_row_blocks(run: Plan) -> Any:
    return (run[3] + ROW_BLOCK - 1) // ROW_BLOCK


@compiled()
def _units_within(cost: int, unit_cost: int, num_units: int) -> int:
    """How many of some units begin within this cost."""
    return min(max((cost + unit_cost - 1) // unit_cost, 0), num_units)


@compiled()
def _entries(tables: Tables, run: Plan, first_row: int) -> Any:
    """Where in `row_offsets` a run's rows are listed, from `first_row` on: an address."""
    return int64(tables[0] + 8 * (run[4] + first_row))


@compiled()
def _row_addresses(rows: Rows, indices: Any, first: int, last: int) -> Any:
    """Addresses of the rows indices[first:last], a tuple of four: the last one fills it up."""
    address, stride, _ = rows
    end = last - 1
    return (
        address + 4 * stride * int64(indices[min(first, end)]),
        address + 4 * stride * int64(indices[min(first + 1, end)]),
        address + 4 * stride * int64(indices[min(first + 2, end)]),
        address + 4 * stride * int64(indices[min(first + 3, end)]),
    )


@compiled()
def _partial_addresses(v: Partial, s: int, first: int, row: int) -> Any:
    """Addresses in v of four neighbouring pairs."""
    stride = 4 * v[1]
    start = v[0] + first * stride + 4 * (s * v[2] + row)
    return start, start + stride, start + 2 * stride, start + 3 * stride


@compiled()
def _shrink_share(
    plan: Plan, low: int, high: int, tables: Tables, pairs: Pairs, x: Rows, pool: int, v: Partial
) -> None:
    """One thread's share of a shrink: what begins in [low, high) of the summed cost."""
    begin = 0
    for i in range(len(plan)):
        run = plan[i]
        cost, num_blocks = _unit_cost(run), _num_row_blocks(run)
        row = ROW_BLOCK * _units_within(low - begin, cost, num_blocks)
        num_rows = min(ROW_BLOCK * _units_within(high - begin, cost, num_blocks), run[3]) - row
        begin += cost * num_blocks
        if num_rows <= 0:
            continue
        following = plan[min(i + 1, len(plan) - 1)]
        tokens = ints(pairs[0], run[1])
        for pair in range(run[0], run[1], MOST_VECTORS):
            end = min(pair + MOST_VECTORS, run[1])
            dot_rows(
                end - pair,
                pool,
                _entries(tables, run, row),
                num_rows,
                x[2],
                _entries(tables, following, 0),
                following[3],
                ROW_BLOCK,
                _row_addresses(x, tokens, pair, end),
                _partial_addresses(v, run[2], pair, row),
            )


@compiled(parallel=True)
def shrink(
    tables: Tables,
    pairs: Pairs,
    siblings: Siblings,
    x: Rows,
    pool: int,
    v: Partial,
    num_threads: int,
) -> None:
    """Write v for all segments of at most `longest_segment` pairs.

    Args:
        tables, pairs, siblings: see there.
        x: in_features elements of each row are used, a multiple of `LANES`.
        pool: its address.
        v: with room for the ranks rounded up to `ROW_BLOCK`.
        num_threads: shares that the work is divided into.
    """
    plan = _plan(tables, pairs, siblings, 0)
    total = 0
    for i in range(len(plan)):
        total += _unit_cost(plan[i]) * _num_row_blocks(plan[i])
    if total * ROW_BLOCK * x[2] < PARALLEL_MIN_COST:
        _shrink_share(plan, 0, total, tables, pairs, x, pool, v)
    else:
        for i in prange(num_threads):
            low, high = total * i // num_threads, total * (i + 1) // num_threads
            _shrink_share(plan, low, high, tables, pairs, x, pool, v)


@compiled()
def _widths(plan: Plan, siblings: Siblings) -> Any:
    """out_features of each run, int64 [num_runs]."""
    table = ints(siblings[0], 3 * siblings[1])
    widths = np.empty(len(plan), np.int64)
    for i in range(len(plan)):
        widths[i] = table[3 * plan[i, 2] + 2]
    return widths


@compiled()
def _divide_runs(plan: Plan, widths: Any, spans: Any) -> None:
    """Columns of each run for each thread, in blocks: whole runs, but for the first and last."""
    total = 0
    for i in range(len(plan)):
        num_blocks = (widths[i] + COLUMN_BLOCK - 1) // COLUMN_BLOCK
        total += _unit_cost(plan[i]) * plan[i, 3] * num_blocks
    for t in range(len(spans)):
        low, high = total * t // len(spans), total * (t + 1) // len(spans)
        for i in range(len(plan)):
            cost = _unit_cost(plan[i]) * plan[i, 3]
            num_blocks = (widths[i] + COLUMN_BLOCK - 1) // COLUMN_BLOCK
            first, last = (
                _units_within(low, cost, num_blocks),
                _units_within(high, cost, num_blocks),
            )
            spans[t, i, 0] = min(first * COLUMN_BLOCK, widths[i])
            spans[t, i, 1] = min(last * COLUMN_BLOCK, widths[i])
            low -= cost * num_blocks
            high -= cost * num_blocks


@compiled()
def _divide_columns(plan: Plan, widths: Any, num_projections: int, spans: Any) -> None:
    """Columns of each run for each thread, the same in all runs of a projection."""
    costs = np.zeros(num_projections, np.int64)  # of `LANES` columns of a projection
    num_parts = np.zeros(num_projections, np.int64)
    for i in range(len(plan)):
        costs[plan[i, 2]] += _unit_cost(plan[i]) * plan[i, 3]
        num_parts[plan[i, 2]] = widths[i] // LANES
    total = 0
    for s in range(num_projections):
        total += costs[s] * num_parts[s]
    for t in range(len(spans)):
        for i in range(len(plan)):
            low, high = total * t // len(spans), total * (t + 1) // len(spans)
            s = plan[i, 2]
            for before in range(s):
                low -= costs[before] * num_parts[before]
                high -= costs[before] * num_parts[before]
            spans[t, i, 0] = LANES * _units_within(low, costs[s], num_parts[s])
            spans[t, i, 1] = LANES * _units_within(high, costs[s], num_parts[s])


@compiled()
def _divide(plan: Plan, siblings: Siblings, has_several: int, num_threads: int) -> Any:
    """Columns of each run for each thread, so that all have about the same cost.

    Returns:
        int64 [num_shares, num_runs, 2]: the first, and the one after the last; multiples of
        `LANES`. One share where the work is not worth waking other threads.
    """
    widths = _widths(plan, siblings)
    total = 0
    for i in range(len(plan)):
        total += _unit_cost(plan[i]) * plan[i, 3] * widths[i]
    num_shares = 1 if total < PARALLEL_MIN_COST else num_threads
    spans = np.empty((num_shares, len(plan), 2), np.int64)
    if has_several != 0:
        _divide_columns(plan, widths, siblings[1], spans)
    else:
        _divide_runs(plan, widths, spans)
    return spans


@compiled()
def _next_run(spans: Any, i: int) -> int:
    """The first run from the i-th on of which a thread has columns; the number of runs if none."""
    while i < len(spans) and spans[i, 0] == spans[i, 1]:
        i += 1
    return i


@compiled()
def _expand_columns(
    run: Plan,
    following: Plan,
    next_column: int,
    column: int,
    end_column: int,
    tables: Tables,
    pairs: Pairs,
    weights: int,
    siblings: Siblings,
    v: Partial,
    pool: int,
    y: Rows,
) -> None:
    """Some columns of a run, at most `COLUMN_BLOCK`, for all its pairs."""
    tokens = ints(pairs[0], run[1])
    out_start = int64(ints(siblings[0] + 12 * run[2], 3)[1])
    entries = _entries(tables, run, 0)
    next_base, next_entries, num_next = pool + 4 * (column + COLUMN_BLOCK), entries, run[3]
    if column + COLUMN_BLOCK >= end_column:
        next_base = pool + 4 * next_column
        next_entries, num_next = _entries(tables, following, 0), following[3]
    columns = (y[0] + 4 * (out_start + column), y[1], y[2])
    for pair in range(run[0], run[1], MOST_VECTORS):
        end = min(pair + MOST_VECTORS, run[1])
        add_rows(
            end - pair,
            pool + 4 * column,
            entries,
            run[3],
            min(end_column - column, COLUMN_BLOCK),
            next_base,
            next_entries,
            num_next,
            weights + 4 * pair,
            _partial_addresses(v, run[2], pair, 0),
            _row_addresses(columns, tokens, pair, end),
        )


@compiled()
def _expand_share(
    plan: Plan,
    spans: Any,
    tables: Tables,
    pairs: Pairs,
    weights: int,
    siblings: Siblings,
    v: Partial,
    pool: int,
    y: Rows,
) -> None:
    """One thread's share of an expand: its columns of each run, int64 [num_runs, 2]."""
    i = _next_run(spans, 0)
    while i < len(plan):
        after = _next_run(spans, i + 1)
        following, end_column = after if after < len(plan) else i, spans[i, 1]
        for column in range(spans[i, 0], end_column, COLUMN_BLOCK):
            _expand_columns(
                plan[i],
                plan[following],
                spans[following, 0],
                column,
                end_column,
                tables,
                pairs,
                weights,
                siblings,
                v,
                pool,
                y,
            )
        i = after


@compiled(parallel=True)
def expand(
    tables: Tables,
    pairs: Pairs,
    weights: int,
    siblings: Siblings,
    v: Partial,
    pool: int,
    y: Rows,
    num_threads: int,
) -> None:
    """Add to y for all segments of at most `longest_segment` pairs.

    Args:
        tables, pairs, siblings: see there; all out_features are multiples of `LANES`.
        weights: address of float32 [num_pairs].
        v: as `shrink` wrote it.
        pool: its address.
        y: its rows; how many elements of each are used follows from the siblings.
        num_threads: shares that the work is divided into.
    """
    plan = _plan(tables, pairs, siblings, 1)
    spans = _divide(plan, siblings, pairs[6], num_threads)
    if len(spans) == 1:
        _expand_share(plan, spans[0], tables, pairs, weights, siblings, v, pool, y)
    else:
        for i in prange(len(spans)):
            _expand_share(plan, spans[i], tables, pairs, weights, siblings, v, pool, y)


@compiled()
def _copy(to: int, source: int, width: int, dtype: Any) -> None:
    to_row = carray(pointer(to, dtype), (width,))
    source_row = carray(pointer(source, dtype), (width,))
    for k in range(width):
        to_row[k] = source_row[k]


@compiled()
def _gather_share(
    rows: int, row_offsets: int, pool: int, low: int, high: int, width: int, elem_bytes: int
) -> None:
    """Copy the rows low to high, element by element."""
    offsets = carray(pointer(row_offsets, int64), (high,))
    for i in range(low, high):
        to, source = rows + i * width * elem_bytes, pool + offsets[i] * elem_bytes
        if elem_bytes == 4:
            _copy(to, source, width, int32)
        else:
            _copy(to, source, width, int16)


@compiled(parallel=True)
def gather(
    rows: int,
    row_offsets: int,
    pool: int,
    num_rows: int,
    width: int,
    elem_bytes: int,
    num_threads: int,
) -> None:
    """Copy rank rows next to each other: rows[i] = pool[row_offsets[i] :][:width].

    Args:
        rows, row_offsets, pool: addresses; that of `row_offsets` is of the first row's entry.
        num_rows, width: how many rows, of how many elements.
        elem_bytes: 4 or 2.
        num_threads: shares that the work is divided into.
    """
    if num_rows * width * elem_bytes < GATHER_PARALLEL_MIN_BYTES:
        _gather_share(rows, row_offsets, pool, 0, num_rows, width, elem_bytes)
    else:
        for i in prange(num_threads):
            low, high = num_rows * i // num_threads, num_rows * (i + 1) // num_threads
            _gather_share(rows, row_offsets, pool, low, high, width, elem_bytes)
