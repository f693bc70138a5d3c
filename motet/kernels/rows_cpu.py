"""Register tiles over rows that lie apart, such as rank rows and the keys of a context.

Owns: the code of two products with rows that are found by their offsets: of vectors with each row
(`dot_rows`), and of coefficients with all rows, summed up (`add_rows`).
Does not know: what the rows are. `lora_cpu_loops.py` and `attention_cpu_loops.py` do.

Both take up to `MOST_VECTORS` vectors at once, which share what is read of a row. While a row is
read, the one that comes after is asked for: the hardware does not know where it is. Each number is
summed in an order that does not depend on the vectors beside it.
"""

from typing import Any

from numba import typeof
from numba.core import types
from numba.extending import intrinsic

from motet.kernels.simd_cpu import (
    INT,
    LANES,
    ZERO,
    Builder,
    Value,
    address,
    call_one_of,
    count_up,
    lane_sums,
    lanes,
    load,
    load_floats,
    load_splat,
    multiply_add,
    new_function,
    number,
    prefetch,
    smaller,
    store,
)

MOST_VECTORS = 4
"""Vectors that share what is read of a row."""

ROW_BLOCK = 4
"""Rows that `dot_rows` takes at once; it writes so many numbers even for a last, smaller block."""

COLUMN_BLOCK = 4 * LANES
"""Columns that `add_rows` takes at once."""


@intrinsic  # type: ignore[untyped-decorator]
def dot_rows(
    typing_context: Any,
    num_vectors: Any,
    base: Any,
    offsets: Any,
    num_rows: Any,
    width: Any,
    next_offsets: Any,
    num_next: Any,
    distance: Any,
    x: Any,
    out: Any,
) -> Any:
    """out[i][r] = sum_k x[i][k] * row_r[k], for i < num_vectors and r < num_rows.

    Args:
        num_vectors: 1 to `MOST_VECTORS`.
        base: address of float32, from which offsets count.
        offsets: address of int64 [num_rows], elements.
        num_rows: at least 1.
        width: elements of a row, a multiple of `LANES`.
        next_offsets: address of int64 [num_next]: rows that are wanted afterwards.
        num_next: at least 1.
        distance: how many rows ahead of itself it asks for, a multiple of `ROW_BLOCK`.
        x: addresses of the vectors, a tuple of `MOST_VECTORS`.
        out: addresses that are written to, likewise, with room for num_rows rounded up to
            `ROW_BLOCK`.
    """
    signature = _signature(8)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors, *rest = _flat(builder, arguments)
        tiles = {m: _dot_tile(builder.module, m) for m in range(1, MOST_VECTORS + 1)}
        call_one_of(builder, vectors, tiles, rest)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def add_rows(
    typing_context: Any,
    num_vectors: Any,
    base: Any,
    offsets: Any,
    num_rows: Any,
    num_columns: Any,
    next_base: Any,
    next_offsets: Any,
    num_next: Any,
    factors: Any,
    coefficients: Any,
    y: Any,
) -> Any:
    """y[i][n] += factor[i] * sum_r coefficient[i][r] * row_r[n], n < num_columns.

    Args:
        num_vectors, base, offsets, num_rows: as for `dot_rows`.
        num_columns: `LANES` to `COLUMN_BLOCK`, a multiple of `LANES`.
        next_base, next_offsets, num_next: the rows that are wanted afterwards.
        factors: address of float32 [num_vectors].
        coefficients: addresses of float32 [num_rows], a tuple of `MOST_VECTORS`.
        y: addresses that are added to, likewise.
    """
    signature = _signature(9)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors, base, offsets, rows, columns, *rest = _flat(builder, arguments)
        parts = builder.sdiv(columns, number(LANES))
        tiles = {
            16 * m + n: _add_tile(builder.module, m, n)
            for m in range(1, MOST_VECTORS + 1)
            for n in range(1, COLUMN_BLOCK // LANES + 1)
        }
        choice = address(builder, parts, vectors, 16)
        call_one_of(builder, choice, tiles, [base, offsets, rows, *rest])
        return context.get_dummy_value()

    return signature, generate


def _signature(num_integers: int) -> Any:
    """Integers, then two tuples of addresses."""
    addresses = typeof((0,) * MOST_VECTORS)
    return types.void(*[types.int64] * num_integers, addresses, addresses)


def _flat(builder: Builder, arguments: list[Value]) -> list[Value]:
    """The arguments, with the elements of the two tuples at their end."""
    *integers, first, second = arguments
    elements = [builder.extract_value(t, i) for t in (first, second) for i in range(MOST_VECTORS)]
    return [*integers, *elements]


def _row(builder: Builder, base: Value, offsets: Value, index: Value, num_rows: Value) -> Value:
    """Address of a row; past the last one, the last one again."""
    last = builder.sub(num_rows, number(1))
    entry = address(builder, offsets, smaller(builder, index, last), 8)
    return address(builder, base, load(builder, entry, INT, 8), 4)


def _dot_tile(module: Any, num_vectors: int) -> Any:
    """The function for so many vectors; its arguments are those of `dot_rows` from base on."""
    function, builder = new_function(module, f"dot.{num_vectors}", 7 + 2 * MOST_VECTORS)
    base, offsets, num_rows, width, next_offsets, num_next, distance = function.args[:7]
    x = function.args[7:][:num_vectors]
    out = function.args[7 + MOST_VECTORS :][:num_vectors]

    def block(first: Value, _: list[Value]) -> list[Value]:
        following = builder.add(first, distance)
        beyond = builder.sub(following, num_rows)
        is_beyond = builder.icmp_signed(">=", beyond, number(0))
        ahead_offsets = builder.select(is_beyond, next_offsets, offsets)
        ahead_first = builder.select(is_beyond, beyond, following)
        num_ahead = builder.select(is_beyond, num_next, num_rows)
        indices = [number(i) for i in range(ROW_BLOCK)]
        rows = [_row(builder, base, offsets, builder.add(first, i), num_rows) for i in indices]
        ahead = [
            _row(builder, base, ahead_offsets, builder.add(ahead_first, i), num_ahead)
            for i in indices
        ]

        def products(k: Value, sums: list[Value]) -> list[Value]:
            for row in ahead:
                prefetch(builder, address(builder, row, k, 4), level=1)
            parts = [load_floats(builder, address(builder, row, k, 4)) for row in rows]
            inputs = [load_floats(builder, address(builder, vector, k, 4)) for vector in x]
            pairs = [(a, b) for a in inputs for b in parts]
            return [multiply_add(builder, *pair, s) for pair, s in zip(pairs, sums, strict=True)]

        sums = count_up(builder, width, LANES, [ZERO] * (num_vectors * ROW_BLOCK), products)
        totals = lane_sums(builder, sums)
        for i, to in enumerate(out):
            part = lanes(builder, totals, i * ROW_BLOCK, ROW_BLOCK)
            store(builder, address(builder, to, first, 4), part)
        return []

    count_up(builder, num_rows, ROW_BLOCK, [], block)
    builder.ret_void()
    return function


def _add_tile(module: Any, num_vectors: int, num_parts: int) -> Any:
    """The function for so many vectors and parts of a row, of `LANES` columns each.

    Its arguments are those of `add_rows` without num_vectors and num_columns.
    """
    name = f"add.{num_vectors}.{num_parts}"
    function, builder = new_function(module, name, 7 + 2 * MOST_VECTORS)
    base, offsets, num_rows, next_base, next_offsets, num_next, factors = function.args[:7]
    coefficients = function.args[7:][:num_vectors]
    y = function.args[7 + MOST_VECTORS :][:num_vectors]
    part_bytes = [number(4 * LANES * i) for i in range(num_parts)]

    def add_row(index: Value, sums: list[Value]) -> list[Value]:
        row = _row(builder, base, offsets, index, num_rows)
        ahead = _row(builder, next_base, next_offsets, index, num_next)
        for part in part_bytes:
            prefetch(builder, builder.add(ahead, part), level=1)
        values = [load_floats(builder, builder.add(row, part)) for part in part_bytes]
        weights = [load_splat(builder, address(builder, each, index, 4)) for each in coefficients]
        pairs = [(weight, value) for weight in weights for value in values]
        return [multiply_add(builder, *pair, s) for pair, s in zip(pairs, sums, strict=True)]

    sums = count_up(builder, num_rows, 1, [ZERO] * (num_vectors * num_parts), add_row)
    for i, total in enumerate(sums):
        factor = load_splat(builder, builder.add(factors, number(4 * (i // num_parts))))
        at = builder.add(y[i // num_parts], part_bytes[i % num_parts])
        store(builder, at, multiply_add(builder, factor, total, load_floats(builder, at)))
    builder.ret_void()
    return function
