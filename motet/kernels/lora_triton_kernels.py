# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The device code behind `lora_triton.py`: shrink and expand, by pair and by tile of pairs.

Owns: what one program computes.
Does not know: torch, grids, block sizes.

Arguments that two or more kernels share: `x`, `y`, `v`, `pool`, the tables (`row_offsets`,
`run_starts`, `ranks`) and the pairs (`tokens`, `slots`, `weights`, `segment_starts`) as in
`types.py`; `siblings`, int32 [num_projections, 3]: module, out_start, out_features. Grid: pairs or
tiles of pairs, projections, blocks of rank rows or of columns.
"""

import triton
import triton.language as tl

_ROW_ALIGNMENT = tl.constexpr(8)
"""Elements. Rows that all start at a multiple of it are read in 16-byte pieces."""

# COLUMN_ALIGNMENT: elements; out_start, out_features and the rows of y are multiples of it.

_UNSPECIALIZED = ["layer", "num_segments"]
"""Arguments whose value must not cause another compilation."""


@triton.jit
def _run(run_starts, ranks, slot, layer, num_layers, num_modules, module, SIDE: tl.constexpr):
    """First entry in `row_offsets`, and rank, of A (SIDE 0) or B (1)."""
    entry = (slot.to(tl.int64) * num_layers + layer) * num_modules + module
    return tl.load(run_starts + 2 * entry + SIDE), tl.load(ranks + entry)


@triton.jit
def _find_tile(segment_starts, num_segments, tile, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr):
    """The first pair of a tile and the end of its segment; an empty range past the last tile."""
    s = tl.arange(0, BLOCK_S)
    starts = tl.load(segment_starts + s, mask=s < num_segments, other=0)
    ends = tl.load(segment_starts + s + 1, mask=s < num_segments, other=0)
    tiles_to = tl.cumsum((ends - starts + BLOCK_T - 1) // BLOCK_T, 0)
    is_before = tiles_to <= tile
    tiles_before = tl.max(tl.where(is_before, tiles_to, 0), 0)
    is_here = s == tl.sum(is_before.to(tl.int32), 0)
    first = tl.sum(tl.where(is_here, starts, 0), 0) + (tile - tiles_before) * BLOCK_T
    return first, tl.sum(tl.where(is_here, ends, 0), 0)


@triton.jit
def _dot_pair(
    x_row,
    pool,
    offsets,
    is_row,
    in_features,
    ALIGNMENT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Dot products of BLOCK_R rank rows with one row of x: float32 [BLOCK_R]."""
    # Changes nothing where the rows are aligned, but tells the compiler that they are.
    offsets = offsets // ALIGNMENT * ALIGNMENT
    total = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
    for start in range(0, in_features, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        is_k = k < in_features
        x = tl.load(x_row + k, mask=is_k, other=0.0).to(tl.float32)
        mask = is_row[:, None] & is_k[None, :]
        a = tl.load(pool + offsets[:, None] + k[None, :], mask=mask, other=0.0)
        total += a.to(tl.float32) * x[None, :]
    return tl.sum(total, 1)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def shrink_pair(
    x,
    pool,
    row_offsets,
    run_starts,
    ranks,
    tokens,
    slots,
    siblings,
    v,
    x_stride,
    in_features,
    layer,
    num_layers,
    num_modules,
    max_rank,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program: BLOCK_R rank rows of one projection, for one pair."""
    pair, s = tl.program_id(0), tl.program_id(1)
    module = tl.load(siblings + 3 * s)
    slot = tl.load(slots + pair)
    run, rank = _run(run_starts, ranks, slot, layer, num_layers, num_modules, module, 0)
    rows = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    if tl.program_id(2) * BLOCK_R >= rank:
        return
    is_row = rows < rank
    offsets = tl.load(row_offsets + run + rows, mask=is_row, other=0)
    x_row = x + tl.load(tokens + pair).to(tl.int64) * x_stride
    if tl.max(offsets % _ROW_ALIGNMENT, 0) == 0:
        products = _dot_pair(
            x_row, pool, offsets, is_row, in_features, _ROW_ALIGNMENT, BLOCK_R, BLOCK_K
        )
    else:
        products = _dot_pair(x_row, pool, offsets, is_row, in_features, 1, BLOCK_R, BLOCK_K)
    v_row = v + (pair.to(tl.int64) * tl.num_programs(1) + s) * max_rank
    tl.store(v_row + rows, products, mask=is_row)


@triton.jit
def _dot_tile(
    x,
    x_offsets,
    is_pair,
    pool,
    offsets,
    is_row,
    in_features,
    ALIGNMENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Dot products of BLOCK_T rows of x with BLOCK_R rank rows: float32 [BLOCK_T, BLOCK_R]."""
    offsets = offsets // ALIGNMENT * ALIGNMENT
    total = tl.zeros([BLOCK_T, BLOCK_R], tl.float32)
    for start in range(0, in_features, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        is_k = k < in_features
        x_mask = is_pair[:, None] & is_k[None, :]
        x_tile = tl.load(x + x_offsets[:, None] + k[None, :], mask=x_mask, other=0.0)
        a_mask = is_k[:, None] & is_row[None, :]
        a_tile = tl.load(pool + offsets[None, :] + k[:, None], mask=a_mask, other=0.0)
        total = tl.dot(x_tile, a_tile, total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def shrink_tile(
    x,
    pool,
    row_offsets,
    run_starts,
    ranks,
    tokens,
    slots,
    segment_starts,
    siblings,
    v,
    x_stride,
    in_features,
    layer,
    num_layers,
    num_modules,
    max_rank,
    num_segments,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: BLOCK_R rank rows of one projection, for BLOCK_T pairs of a segment."""
    first, end = _find_tile(segment_starts, num_segments, tl.program_id(0), BLOCK_S, BLOCK_T)
    if first >= end:
        return
    s = tl.program_id(1)
    module = tl.load(siblings + 3 * s)
    slot = tl.load(slots + first)
    run, rank = _run(run_starts, ranks, slot, layer, num_layers, num_modules, module, 0)
    if tl.program_id(2) * BLOCK_R >= rank:
        return
    rows = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    is_row = rows < rank
    offsets = tl.load(row_offsets + run + rows, mask=is_row, other=0)
    tile = first + tl.arange(0, BLOCK_T)
    is_pair = tile < end
    x_offsets = tl.load(tokens + tile, mask=is_pair, other=0).to(tl.int64) * x_stride
    if tl.max(offsets % _ROW_ALIGNMENT, 0) == 0:
        products = _dot_tile(
            x,
            x_offsets,
            is_pair,
            pool,
            offsets,
            is_row,
            in_features,
            _ROW_ALIGNMENT,
            BLOCK_T,
            BLOCK_R,
            BLOCK_K,
            PRECISION,
        )
    else:
        products = _dot_tile(
            x,
            x_offsets,
            is_pair,
            pool,
            offsets,
            is_row,
            in_features,
            1,
            BLOCK_T,
            BLOCK_R,
            BLOCK_K,
            PRECISION,
        )
    v_rows = (tile.to(tl.int64) * tl.num_programs(1) + s) * max_rank
    mask = is_pair[:, None] & is_row[None, :]
    tl.store(v + v_rows[:, None] + rows[None, :], products, mask=mask)


@triton.jit
def _load_columns(
    pool,
    row_offsets,
    run,
    rows,
    rank,
    columns,
    out_features,
):
    """A block of B, [rows, columns], 0 outside it."""
    offsets = tl.load(row_offsets + run + rows, mask=rows < rank, other=0)
    mask = (rows < rank)[:, None] & (columns < out_features)[None, :]
    if tl.max(offsets % _ROW_ALIGNMENT, 0) == 0:
        aligned = offsets // _ROW_ALIGNMENT * _ROW_ALIGNMENT
        block = tl.load(pool + aligned[:, None] + columns[None, :], mask=mask, other=0.0)
    else:
        block = tl.load(pool + offsets[:, None] + columns[None, :], mask=mask, other=0.0)
    return block.to(tl.float32)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def expand_pair(
    v,
    pool,
    row_offsets,
    run_starts,
    ranks,
    tokens,
    slots,
    weights,
    siblings,
    y,
    y_stride,
    layer,
    num_layers,
    num_modules,
    max_rank,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    COLUMN_ALIGNMENT: tl.constexpr,
):
    """One program: BLOCK_N columns of one projection, for one pair."""
    pair, s = tl.program_id(0), tl.program_id(1)
    module = tl.load(siblings + 3 * s)
    # As for the rows: changes nothing, but tells the compiler how wide it may read.
    out_start = tl.load(siblings + 3 * s + 1) // COLUMN_ALIGNMENT * COLUMN_ALIGNMENT
    out_features = tl.load(siblings + 3 * s + 2) // COLUMN_ALIGNMENT * COLUMN_ALIGNMENT
    slot = tl.load(slots + pair)
    run, rank = _run(run_starts, ranks, slot, layer, num_layers, num_modules, module, 1)
    if (rank == 0) | (tl.program_id(2) * BLOCK_N >= out_features):
        return
    columns = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    v_row = v + (pair.to(tl.int64) * tl.num_programs(1) + s) * max_rank
    total = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    for start in range(0, rank, BLOCK_R):
        rows = start + tl.arange(0, BLOCK_R)
        v_block = tl.load(v_row + rows, mask=rows < rank, other=0.0)
        b_block = _load_columns(pool, row_offsets, run, rows, rank, columns, out_features)
        total += v_block[:, None] * b_block
    delta = tl.load(weights + pair) * tl.sum(total, 0)
    token = tl.load(tokens + pair).to(tl.int64)
    y_row = y + (token * y_stride // COLUMN_ALIGNMENT * COLUMN_ALIGNMENT + out_start)
    is_column = columns < out_features
    old = tl.load(y_row + columns, mask=is_column, other=0.0).to(tl.float32)
    tl.store(y_row + columns, (old + delta).to(y.dtype.element_ty), mask=is_column)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def expand_tile(
    v,
    pool,
    row_offsets,
    run_starts,
    ranks,
    tokens,
    slots,
    weights,
    segment_starts,
    siblings,
    y,
    y_stride,
    layer,
    num_layers,
    num_modules,
    max_rank,
    num_segments,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    COLUMN_ALIGNMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: BLOCK_N columns of one projection, for BLOCK_T pairs of a segment."""
    first, end = _find_tile(segment_starts, num_segments, tl.program_id(0), BLOCK_S, BLOCK_T)
    if first >= end:
        return
    s = tl.program_id(1)
    module = tl.load(siblings + 3 * s)
    # As for the rows: changes nothing, but tells the compiler how wide it may read.
    out_start = tl.load(siblings + 3 * s + 1) // COLUMN_ALIGNMENT * COLUMN_ALIGNMENT
    out_features = tl.load(siblings + 3 * s + 2) // COLUMN_ALIGNMENT * COLUMN_ALIGNMENT
    slot = tl.load(slots + first)
    run, rank = _run(run_starts, ranks, slot, layer, num_layers, num_modules, module, 1)
    if (rank == 0) | (tl.program_id(2) * BLOCK_N >= out_features):
        return
    columns = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = first + tl.arange(0, BLOCK_T)
    is_pair = tile < end
    v_rows = (tile.to(tl.int64) * tl.num_programs(1) + s) * max_rank
    total = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    for start in range(0, rank, BLOCK_R):
        rows = start + tl.arange(0, BLOCK_R)
        v_mask = is_pair[:, None] & (rows < rank)[None, :]
        v_block = tl.load(v + v_rows[:, None] + rows[None, :], mask=v_mask, other=0.0)
        b_block = _load_columns(pool, row_offsets, run, rows, rank, columns, out_features)
        total = tl.dot(v_block, b_block, total, input_precision=PRECISION)
    total *= tl.load(weights + tile, mask=is_pair, other=0.0)[:, None]
    y_rows = tl.load(tokens + tile, mask=is_pair, other=0).to(tl.int64) * y_stride
    y_rows = y_rows // COLUMN_ALIGNMENT * COLUMN_ALIGNMENT + out_start
    y_block = y + y_rows[:, None] + columns[None, :]
    mask = is_pair[:, None] & (columns < out_features)[None, :]
    old = tl.load(y_block, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_block, (old + total).to(y.dtype.element_ty), mask=mask)
