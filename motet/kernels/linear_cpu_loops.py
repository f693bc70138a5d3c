"""The compiled loops behind `linear_cpu.py`: products with a weight that is packed in panels.

Owns: how the panels of one product are divided among threads, and in which order tiles run.
Does not know: torch. A tensor comes in as the address of its first element; the callers check.

A panel is `PANEL_WIDTH` outputs of the weight, [in_features, PANEL_WIDTH], so that it is read
from end to end. A thread takes a share of the panels; over each it runs the tiles of all rows,
which meet it in the second-level cache but for the first time. Meanwhile they ask for the next
panel, evenly: neither the memory nor the arithmetic waits for the other.
"""

from typing import Any

import numpy as np
from numba import int64, prange

from motet.kernels.compiled import compiled, floats
from motet.kernels.tiles_cpu import (
    FEW_PREFETCHES,
    MOST_PREFETCHES,
    PANEL_WIDTH,
    STEPS,
    TILE_ROWS,
    multiply_panel,
)

BLOCK_ROWS = 22 * TILE_ROWS
"""Rows that pass over a panel together: what is read of x in between stays in the cache."""

MANY_TILES = 3
"""From so many tiles of a panel on, each has few prefetches to do."""

AHEAD_BYTES = 4096
"""How far before itself a single tile prefetches in its own panel."""

PARALLEL_MIN_PRODUCTS = 256 * 1024
"""Below this the work takes less time than waking the other threads."""

Rows = tuple[int, int, int]
"""Address of float32 rows, elements from one to the next, and how many there are."""

Packed = tuple[int, int, int, int, int]
"""Addresses of the panels and of the scales; out_features, in_features; bytes of a weight."""


@compiled()
def _multiply_block(
    kind: Any, x: Rows, weight: Packed, panel_index: int, y: Rows, first_row: int, end_row: int
) -> None:
    """The tiles of some rows over one panel."""
    panels, scales, _, in_features, weight_bytes = weight
    panel_bytes = in_features * PANEL_WIDTH * weight_bytes
    panel = panels + panel_index * panel_bytes
    num_rows = end_row - first_row
    num_tiles = (num_rows + TILE_ROWS - 1) // TILE_ROWS
    num_prefetches = MOST_PREFETCHES if num_tiles < MANY_TILES else FEW_PREFETCHES
    # Together, the tiles ask for the whole next panel.
    ahead_bytes = panel_bytes // num_tiles
    ahead_stride = ahead_bytes // (in_features // STEPS * num_prefetches)
    start = first_row
    for tile in range(num_tiles):
        end = first_row + num_rows * (tile + 1) // num_tiles
        ahead = panel + AHEAD_BYTES
        if num_tiles > 1:
            ahead = panel + panel_bytes + tile * ahead_bytes
        multiply_panel(
            kind,
            end - start,
            num_prefetches,
            x[0] + 4 * start * x[1],
            x[1],
            panel,
            in_features,
            ahead,
            ahead_stride,
            scales + 4 * panel_index * PANEL_WIDTH,
            y[0] + 4 * (start * y[1] + panel_index * PANEL_WIDTH),
            y[1],
        )
        start = end


@compiled()
def _multiply_last(kind: Any, x: Rows, weight: Packed, panel_index: int, y: Rows) -> None:
    """A panel that is wider than what is left of y, by way of a buffer."""
    first_column = panel_index * PANEL_WIDTH
    num_columns = weight[2] - first_column
    buffer = np.empty((TILE_ROWS, PANEL_WIDTH), np.float32)
    for first_row in range(0, x[2], TILE_ROWS):
        end_row = min(first_row + TILE_ROWS, x[2])
        # Where the buffer would begin if it were all of y.
        address = int64(buffer.ctypes.data) - 4 * (first_row * PANEL_WIDTH + first_column)
        _multiply_block(
            kind, x, weight, panel_index, (address, PANEL_WIDTH, x[2]), first_row, end_row
        )
        for row in range(first_row, end_row):
            to = floats(y[0], row * y[1] + first_column, num_columns)
            for column in range(num_columns):
                to[column] = buffer[row - first_row, column]


@compiled()
def _multiply_share(kind: Any, x: Rows, weight: Packed, y: Rows, first: int, last: int) -> None:
    """One thread's share: the panels `first` to `last - 1`."""
    num_whole = weight[2] // PANEL_WIDTH
    num_blocks = (x[2] + BLOCK_ROWS - 1) // BLOCK_ROWS
    for block in range(num_blocks):
        first_row, end_row = x[2] * block // num_blocks, x[2] * (block + 1) // num_blocks
        for panel_index in range(first, min(last, num_whole)):
            _multiply_block(kind, x, weight, panel_index, y, first_row, end_row)
    if last > num_whole:
        _multiply_last(kind, x, weight, num_whole, y)


@compiled(parallel=True)
def multiply(kind: Any, x: Rows, weight: Packed, y: Rows, num_threads: int) -> None:
    """y[m, n] = sum_k x[m, k] * W[n, k], in float32.

    Args:
        kind: a number of the type that holds a weight, see `tiles_cpu.WEIGHT_BYTES`.
        x: rows of in_features.
        weight: see `Packed`; in_features is a multiple of `STEPS`.
        y: rows of out_features.
        num_threads: shares that the panels are divided into.
    """
    num_panels = (weight[2] + PANEL_WIDTH - 1) // PANEL_WIDTH
    if x[2] * weight[2] * weight[3] < PARALLEL_MIN_PRODUCTS:
        _multiply_share(kind, x, weight, y, 0, num_panels)
    else:
        for i in prange(num_threads):
            first, last = num_panels * i // num_threads, num_panels * (i + 1) // num_threads
            _multiply_share(kind, x, weight, y, first, last)
