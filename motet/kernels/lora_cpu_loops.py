"""The compiled loops behind `lora_cpu.py`: rank rows read in place from the page pool, float32.

Owns: how the work of one shrink or expand is divided among threads, and the inner loops.
Does not know: torch. A tensor comes in as the address of its first element, because a dispatch
with tuples of integers costs a fifth of one with arrays; the callers check what lies there.

The work is a list of runs, one for each segment and projection that has rank rows. A run has
equal units: `ROW_BLOCK` rank rows for shrink, `COLUMN_BLOCK` columns for expand. A unit costs what
it reads (`READ_COST`) and once more for each token it serves. Each thread takes an equal share of
the summed cost, whatever the mix of ranks. Every number is computed by one thread, always in the
same order, so results do not depend on how many threads there are.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import carray, float32, int16, int32, int64, njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

READ_COST = 8
"""Cost of reading a row from memory, in units of one token's arithmetic with it in cache."""

ROW_BLOCK = 4
"""Rank rows that are read together; a last, smaller block computes its last row again."""

COLUMN_BLOCK = 16
"""Columns of y that stay with one thread: one cache line of float32."""

PARALLEL_MIN_COST = 1024 * 1024
"""Below this cost [elements] the work takes less time than waking the other threads."""

GATHER_PARALLEL_MIN_BYTES = 2 * 1024 * 1024
"""Likewise, for copying."""

Tables = tuple[int, int, int, int, int]
"""Addresses of row_offsets, run_starts, ranks; the layer's first entry in a slot; a slot's size."""

Pairs = tuple[int, int, int, int, int]
"""Addresses of tokens, slots, segment_starts; num_segments; pairs of the longest segment to do."""

Siblings = tuple[int, int, int]
"""Address of int32 [n, 3] (module, out_start, out_features); n; max_rank."""

Floats = NDArray[np.float32]
Plan = NDArray[np.int64]

# Without `nnan` and `ninf`: what is computed from a NaN stays one.
_FASTMATH = {"reassoc", "contract", "nsz"}

F = TypeVar("F", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[F], F]:
    """Numba's decorator, cached on disk, that keeps the function's type."""
    decorator: Callable[[F], F] = njit(cache=True, **options)
    return decorator


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typing_context: Any, address: Any, dtype: Any) -> Any:
    """The integer `address` as a pointer to `dtype`."""
    pointer = types.CPointer(dtype.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.int64, dtype), generate


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at the integer `address`; any address does no harm."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte_pointer, int32_type = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte_pointer, int32_type, int32_type, int32_type]),
            "llvm.prefetch.p0",
        )
        pointer = builder.inttoptr(arguments[0], byte_pointer)
        builder.call(function, [pointer, int32_type(0), int32_type(3), int32_type(1)])
        return context.get_dummy_value()

    return types.void(address), generate


@compiled()
def _prefetch_rows(offsets: Any, pool: int, start: int, width: int) -> None:
    """Ask for the cache lines of a block of rank rows: the hardware does not know the next one."""
    for i in range(len(offsets)):
        first = pool + 4 * (offsets[i] + start)
        for address in range(first, first + 4 * width, 64):
            _prefetch(address)


@compiled()
def _floats(address: int, index: int, length: int) -> Any:
    """`length` floats that start `index` floats after `address`, as an array."""
    return carray(_pointer(address + 4 * index, float32), (length,))


@compiled()
def _ints(address: int, length: int) -> Any:
    return carray(_pointer(address, int32), (length,))


@compiled()
def _plan(tables: Tables, pairs: Pairs, siblings: Siblings, is_expand: bool) -> Any:
    """The runs of a batch, and their summed cost.

    Returns:
        int64 [num_runs, 8]: first pair, last pair (exclusive), projection, rank, first entry in
        `row_offsets`, summed cost of the runs before, number of units, cost of a unit.
    """
    _, run_starts, ranks, table_base, table_stride = tables
    _, slots, segment_starts, num_segments, longest_segment = pairs
    projections, num_projections, _ = siblings
    starts = _ints(segment_starts, num_segments + 1)
    slot_of = _ints(slots, starts[num_segments])
    modules = _ints(projections, 3 * num_projections)
    plan = np.empty((num_segments * num_projections, 8), np.int64)
    num_runs, total_cost = 0, 0
    for segment in range(num_segments):
        start, end = starts[segment], starts[segment + 1]
        if end - start > longest_segment:
            continue
        slot_entry = slot_of[start] * table_stride + table_base
        for s in range(num_projections):
            entry = slot_entry + modules[3 * s]
            rank = int64(_ints(ranks + 4 * entry, 1)[0])
            if rank == 0:
                continue
            unit_cost = READ_COST + int64(end - start)
            num_units = (rank + ROW_BLOCK - 1) // ROW_BLOCK
            if is_expand:
                unit_cost *= rank
                num_units = (modules[3 * s + 2] + COLUMN_BLOCK - 1) // COLUMN_BLOCK
            run = plan[num_runs]
            run[0], run[1], run[2], run[3] = start, end, s, rank
            run[4] = _ints(run_starts + 8 * entry, 2)[1 if is_expand else 0]
            run[5], run[6], run[7] = total_cost, num_units, unit_cost
            num_runs += 1
            total_cost += num_units * unit_cost
    return plan[:num_runs], total_cost


@compiled()
def _share(run: Plan, low: int, high: int) -> tuple[int, int]:
    """The units of a run that lie in a thread's share [low, high) of the summed cost."""
    begin, num_units, unit_cost = run[5], run[6], run[7]
    first = (low - begin + unit_cost - 1) // unit_cost
    last = (high - begin + unit_cost - 1) // unit_cost
    return max(first, 0), min(last, num_units)


@compiled(fastmath=_FASTMATH)
def _shrink_block(
    offsets: Any,
    pool: int,
    x: tuple[int, int, int],
    tokens: Any,
    first_pair: int,
    last_pair: int,
    v: tuple[int, int],
) -> None:
    """Dot products of up to ROW_BLOCK rank rows with the x of each pair, written to v."""
    x_address, x_stride, in_features = x
    v_address, v_stride = v
    last = len(offsets) - 1
    row0 = _floats(pool, offsets[0], in_features)
    row1 = _floats(pool, offsets[min(1, last)], in_features)
    row2 = _floats(pool, offsets[min(2, last)], in_features)
    row3 = _floats(pool, offsets[last], in_features)
    for pair in range(first_pair, last_pair):
        x_row = _floats(x_address, tokens[pair] * x_stride, in_features)
        sum0 = sum1 = sum2 = sum3 = float32(0)
        for k in range(in_features):
            sum0 += row0[k] * x_row[k]
            sum1 += row1[k] * x_row[k]
            sum2 += row2[k] * x_row[k]
            sum3 += row3[k] * x_row[k]
        out = _floats(v_address, pair * v_stride, last + 1)
        out[0] = sum0
        out[min(1, last)] = sum1
        out[min(2, last)] = sum2
        out[last] = sum3


@compiled()
def _shrink_share(
    plan: Plan,
    low: int,
    high: int,
    tables: Tables,
    pairs: Pairs,
    siblings: Siblings,
    x: tuple[int, int, int],
    pool: int,
    v: int,
) -> None:
    """One thread's share of a shrink."""
    _, num_projections, max_rank = siblings
    v_stride = num_projections * max_rank
    for i in range(len(plan)):
        run = plan[i]
        first, last = _share(run, low, high)
        tokens = _ints(pairs[0], run[1])
        for row in range(first * ROW_BLOCK, min(last * ROW_BLOCK, run[3]), ROW_BLOCK):
            num_rows = min(ROW_BLOCK, run[3] - row)
            entries = _pointer(tables[0] + 8 * (run[4] + row), int64)
            block_v = v + 4 * (run[2] * max_rank + row)
            num_next = min(ROW_BLOCK, run[3] - row - ROW_BLOCK)
            if num_next > 0:
                next_entries = _pointer(tables[0] + 8 * (run[4] + row + ROW_BLOCK), int64)
                _prefetch_rows(carray(next_entries, (num_next,)), pool, 0, x[2])
            _shrink_block(
                carray(entries, (num_rows,)), pool, x, tokens, run[0], run[1], (block_v, v_stride)
            )


@compiled(parallel=True)
def shrink(
    tables: Tables,
    pairs: Pairs,
    siblings: Siblings,
    x: tuple[int, int, int],
    pool: int,
    v: int,
    num_threads: int,
) -> None:
    """Write v for all segments of at most `longest_segment` pairs.

    Args:
        tables, pairs, siblings: see there.
        x: address, row stride and in_features.
        pool, v: addresses.
        num_threads: shares that the work is divided into.
    """
    plan, total = _plan(tables, pairs, siblings, False)
    if total * ROW_BLOCK * x[2] < PARALLEL_MIN_COST:
        _shrink_share(plan, 0, total, tables, pairs, siblings, x, pool, v)
    else:
        for i in prange(num_threads):
            low, high = total * i // num_threads, total * (i + 1) // num_threads
            _shrink_share(plan, low, high, tables, pairs, siblings, x, pool, v)


@compiled(fastmath=_FASTMATH)
def _expand_rows(
    offsets: Any,
    pool: int,
    coefficients: tuple[float, float, float, float],
    y_row: Floats,
    start: int,
) -> None:
    """y_row += the sum over up to ROW_BLOCK columns of B, each times its coefficient."""
    last = len(offsets) - 1
    width = len(y_row)
    row0 = _floats(pool, offsets[0] + start, width)
    row1 = _floats(pool, offsets[min(1, last)] + start, width)
    row2 = _floats(pool, offsets[min(2, last)] + start, width)
    row3 = _floats(pool, offsets[last] + start, width)
    c0, c1, c2, c3 = coefficients
    for k in range(width):
        y_row[k] += (c0 * row0[k] + c1 * row1[k]) + (c2 * row2[k] + c3 * row3[k])


@compiled()
def _coefficients(v_row: Floats, row: int, weight: Any) -> Any:
    """Weight times v at four rank rows from `row` on; 0 for rows past the rank."""
    last = len(v_row) - 1
    c0 = v_row[row]
    c1 = v_row[min(row + 1, last)] if row < last else float32(0)
    c2 = v_row[min(row + 2, last)] if row + 1 < last else float32(0)
    c3 = v_row[min(row + 3, last)] if row + 2 < last else float32(0)
    return weight * c0, weight * c1, weight * c2, weight * c3


@compiled()
def _expand_share(
    plan: Plan,
    low: int,
    high: int,
    tables: Tables,
    pairs: Pairs,
    weights: int,
    siblings: Siblings,
    v: int,
    pool: int,
    y: tuple[int, int],
) -> None:
    """One thread's share of an expand."""
    projections, num_projections, max_rank = siblings
    y_address, y_stride = y
    columns = _ints(projections, 3 * num_projections)
    for i in range(len(plan)):
        run = plan[i]
        s, rank = run[2], run[3]
        first, last = _share(run, low, high)
        start = first * COLUMN_BLOCK
        width = min(last * COLUMN_BLOCK, int64(columns[3 * s + 2])) - start
        if width <= 0:
            continue
        tokens = _ints(pairs[0], run[1])
        for row in range(0, rank, ROW_BLOCK):
            num_rows = min(ROW_BLOCK, rank - row)
            entries = _pointer(tables[0] + 8 * (run[4] + row), int64)
            offsets = carray(entries, (num_rows,))
            num_next = min(ROW_BLOCK, rank - row - ROW_BLOCK)
            if num_next > 0:
                next_entries = _pointer(tables[0] + 8 * (run[4] + row + ROW_BLOCK), int64)
                _prefetch_rows(carray(next_entries, (num_next,)), pool, start, width)
            for pair in range(run[0], run[1]):
                v_row = _floats(v, (pair * num_projections + s) * max_rank, rank)
                coefficients = _coefficients(v_row, row, _floats(weights, pair, 1)[0])
                at = tokens[pair] * y_stride + columns[3 * s + 1] + start
                _expand_rows(offsets, pool, coefficients, _floats(y_address, at, width), start)


@compiled(parallel=True)
def expand(
    tables: Tables,
    pairs: Pairs,
    weights: int,
    siblings: Siblings,
    v: int,
    pool: int,
    y: tuple[int, int],
    num_threads: int,
) -> None:
    """Add to y for all segments of at most `longest_segment` pairs.

    Args:
        tables, pairs, siblings: see there.
        weights, v, pool: addresses.
        y: address and row stride.
        num_threads: shares that the work is divided into.
    """
    plan, total = _plan(tables, pairs, siblings, True)
    if total * COLUMN_BLOCK < PARALLEL_MIN_COST:
        _expand_share(plan, 0, total, tables, pairs, weights, siblings, v, pool, y)
    else:
        for i in prange(num_threads):
            low, high = total * i // num_threads, total * (i + 1) // num_threads
            _expand_share(plan, low, high, tables, pairs, weights, siblings, v, pool, y)


@compiled()
def _copy(to: int, source: int, width: int, dtype: Any) -> None:
    to_row = carray(_pointer(to, dtype), (width,))
    source_row = carray(_pointer(source, dtype), (width,))
    for k in range(width):
        to_row[k] = source_row[k]


@compiled()
def _gather_share(
    rows: int, row_offsets: int, pool: int, low: int, high: int, width: int, elem_bytes: int
) -> None:
    """Copy the rows low to high, element by element."""
    offsets = carray(_pointer(row_offsets, int64), (high,))
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
