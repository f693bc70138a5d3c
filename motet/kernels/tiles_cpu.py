"""The register tile of a product with a packed weight, as LLVM code.

Owns: the code of one tile, for every number of rows, and the prefetches within it.
Does not know: matrices and threads. `linear_cpu_loops.py` says which tile goes where.
"""

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from motet.kernels.simd_cpu import (
    HAS_WIDE_REGISTERS,
    LANES,
    ZERO,
    Value,
    address,
    call_one_of,
    count_up,
    load_floats,
    load_splat,
    load_weights,
    multiply_add,
    new_function,
    number,
    prefetch,
    store,
)

PANEL_WIDTH = 2 * LANES
"""Columns of a tile."""

STEPS = 4
"""Products of a sum that are taken before the loop is closed and prefetches are sent."""

TILE_ROWS = 12 if HAS_WIDE_REGISTERS else 3
"""Rows of the largest tile: its sums, two vectors a row, must fit in the registers."""

MOST_PREFETCHES, FEW_PREFETCHES = 8, 3
"""Prefetches in `STEPS` steps: as many as float32 weights have cache lines there, or fewer."""

_WEIGHT_BYTES = {types.float32: 4, types.uint16: 2, types.int8: 1}


@intrinsic  # type: ignore[untyped-decorator]
def multiply_panel(
    typing_context: Any,
    kind: Any,
    num_rows: Any,
    num_prefetches: Any,
    x: Any,
    x_stride: Any,
    panel: Any,
    num_inputs: Any,
    ahead: Any,
    ahead_stride: Any,
    scales: Any,
    y: Any,
    y_stride: Any,
) -> Any:
    """y[m, n] = sum_k x[m, k] * panel[k, n], for m < num_rows and n < PANEL_WIDTH.

    Args:
        kind: a number of the type that holds a weight: float32, uint16 for bfloat16, or int8. Its
            value means nothing.
        num_rows: 1 to `TILE_ROWS`.
        num_prefetches: `MOST_PREFETCHES` or `FEW_PREFETCHES`, in `STEPS` steps.
        x, y: addresses of float32; strides in elements.
        panel: address of weights [num_inputs, PANEL_WIDTH], row after row.
        num_inputs: a multiple of `STEPS`.
        ahead, ahead_stride: address of the first prefetch, and bytes from one to the next.
        scales: address of float32 [PANEL_WIDTH], factors on int8 weights; else not read.
    """
    signature = types.void(kind, *[types.int64] * 11)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, prefetches, *rest = arguments
        tiles = {
            16 * m + n: _tile(builder.module, kind, m, n)
            for m in range(1, TILE_ROWS + 1)
            for n in (MOST_PREFETCHES, FEW_PREFETCHES)
        }
        call_one_of(builder, address(builder, prefetches, rows, 16), tiles, rest)
        return context.get_dummy_value()

    return signature, generate


def _tile(module: Any, kind: Any, num_rows: int, num_prefetches: int) -> Any:
    """The function of one tile; its arguments are those of `multiply_panel` from x on."""
    function, builder = new_function(module, f"panel.{kind}.{num_rows}.{num_prefetches}", 9)
    x, x_stride, panel, num_inputs, ahead, ahead_stride, scales, y, y_stride = function.args
    elem_bytes = _WEIGHT_BYTES[kind]
    x_rows = [address(builder, x, builder.mul(x_stride, number(m)), 4) for m in range(num_rows)]

    def steps(index: Value, carried: list[Value]) -> list[Value]:
        at, *sums = carried
        for _ in range(num_prefetches):
            prefetch(builder, at, level=2)
            at = builder.add(at, ahead_stride)
        for step in range(STEPS):
            k = builder.add(index, number(step))
            row = address(builder, panel, k, PANEL_WIDTH * elem_bytes)
            weights = [
                load_weights(builder, builder.add(row, number(half * elem_bytes)), kind)
                for half in (0, LANES)
            ]
            inputs = [load_splat(builder, address(builder, x_row, k, 4)) for x_row in x_rows]
            sums = [
                multiply_add(builder, inputs[i // 2], weights[i % 2], total)
                for i, total in enumerate(sums)
            ]
        return [at, *sums]

    _, *sums = count_up(builder, num_inputs, STEPS, [ahead, *[ZERO] * (2 * num_rows)], steps)
    for i, total in enumerate(sums):
        half = number(i % 2 * LANES * 4)
        if kind == types.int8:
            total = builder.fmul(total, load_floats(builder, builder.add(scales, half)))
        y_row = address(builder, y, builder.mul(y_stride, number(i // 2)), 4)
        store(builder, builder.add(y_row, half), total)
    builder.ret_void()
    return function
