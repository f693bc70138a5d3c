# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The device code behind `lora_triton.py`: shrink and expand of a tile of pairs of one adapter.

Owns: what one program computes, and how it finds its tile.
Does not know: torch, grids, block sizes.

Arguments that both kernels take: `x`, `y`, `pool`, the tables (`row_offsets`, `run_starts`,
`ranks`) and the pairs (`tokens`, `slots`, `weights`, `segment_starts`) as in `types.py`; `masks`,
their `LoraPairs.siblings` or None; `v`, float32 [num_parts, num_pairs, NUM_SIBLINGS, max_rank];
`siblings`, int32 [NUM_SIBLINGS, 3]: module, out_start, out_features. A grid's first axis is the
tile times `num_blocks` plus the block, so that programs which read the same tokens run side by side
and share them in the L2 cache.

Every program decides from the tables whether it has work. One that has none ends before it reads a
rank row or a token, which is all that an adapter without rank rows (a padded pair) costs.
"""

import triton
import triton.language as tl

_ROW_ALIGNMENT = tl.constexpr(8)
"""Elements. Rows that all start at a multiple of it are read in 16-byte pieces."""
_UNALIGNED_BLOCK = tl.constexpr(16)
"""Features, rank rows and columns at a time where they are not: read one by one, a larger block
would take more registers than the aligned path, and every program would have to hold them."""

# COLUMN_ALIGNMENT: elements; out_start, out_features and the rows of y are multiples of it.

_UNSPECIALIZED = [
    "layer",
    "num_pairs",
    "first_pair",
    "end_pair",
    "first_segment",
    "num_segments",
    "num_blocks",
]
"""Arguments whose value must not cause another compilation."""


@triton.jit
def _find_in_segments(
    segment_starts, num_segments, tile, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr
):
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
def _find_in_slots(slots, masks, first_pair, end_pair, tile, BLOCK_T: tl.constexpr):
    """From a pair to the end of its run of equal slots; empty where the run began before it.

    Runs are cut every BLOCK_T pairs, so that one program sees the whole of its run.
    """
    pair = first_pair + tile
    window = first_pair + tile // BLOCK_T * BLOCK_T
    others = window + tl.arange(0, BLOCK_T)
    slot = tl.load(slots + pair)
    differs = tl.load(slots + others, mask=others < end_pair, other=-1) != slot
    if masks is not None:
        mask = tl.load(masks + pair)
        differs = differs | (tl.load(masks + others, mask=others < end_pair, other=0) != mask)
    end = tl.min(tl.where(differs & (others > pair), others, window + BLOCK_T), 0)
    continues = tl.max(((others == pair - 1) & ~differs).to(tl.int32), 0)
    return pair, tl.where(continues > 0, pair, end)


@triton.jit
def _find_pairs(
    slots,
    masks,
    segment_starts,
    first_pair,
    end_pair,
    num_segments,
    tile,
    BY_SEGMENT: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """The pairs of a tile: from the first up to the end, or to BLOCK_T of them."""
    if BY_SEGMENT:
        first, end = _find_in_segments(segment_starts, num_segments, tile, BLOCK_S, BLOCK_T)
    else:
        first, end = _find_in_slots(slots, masks, first_pair, end_pair, tile, BLOCK_T)
    return first, end


@triton.jit
def _rank_for(rank, masks, pair, s):
    """The rank of a pair in a projection, 0 where it is not for that one."""
    if masks is not None:
        rank = tl.where((tl.load(masks + pair) >> s) & 1 == 1, rank, 0)
    return rank


@triton.jit
def find_run(run_starts, ranks, slot, layer, num_layers, num_modules, module, SIDE: tl.constexpr):
    """First entry in `row_offsets`, and rank, of A (SIDE 0) or B (1)."""
    entry = (slot.to(tl.int64) * num_layers + layer) * num_modules + module
    return tl.load(run_starts + 2 * entry + SIDE), tl.load(ranks + entry)


@triton.jit
def _stack_rows(
    row,
    siblings,
    run_starts,
    ranks,
    slot,
    masks,
    pair,
    layer,
    num_layers,
    num_modules,
    max_rank,
    NUM_SIBLINGS: tl.constexpr,
):
    """Where rows of the siblings' A are, stacked without gaps at their true ranks.

    Returns of each row its entry in `row_offsets` and its column in v; and the height of the stack.
    """
    entry = tl.zeros_like(row)
    column = tl.zeros_like(row)
    height = 0
    for s in tl.static_range(NUM_SIBLINGS):
        module = tl.load(siblings + 3 * s)
        run, rank = find_run(run_starts, ranks, slot, layer, num_layers, num_modules, module, 0)
        rank = _rank_for(rank, masks, pair, s)
        is_here = (row >= height) & (row < height + rank)
        entry = tl.where(is_here, run + row - height, entry)
        column = tl.where(is_here, s * max_rank + row - height, column)
        height += rank
    return entry, column, height


@triton.jit
def _dot_rows(
    x,
    x_offsets,
    is_pair,
    pool,
    offsets,
    is_row,
    start,
    end,
    ALIGNMENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Products of BLOCK_T rows of x and BLOCK_R rank rows over k in start..end: [BLOCK_T, BLOCK_R].

    float32.
    """
    # Changes nothing where the rows are aligned, but tells the compiler that they are.
    offsets = offsets // ALIGNMENT * ALIGNMENT
    total = tl.zeros([BLOCK_T, BLOCK_R], tl.float32)
    for block_start in range(start, end, BLOCK_K):
        k = block_start + tl.arange(0, BLOCK_K)
        is_k = k < end
        x_mask = is_pair[:, None] & is_k[None, :]
        x_tile = tl.load(x + x_offsets[:, None] + k[None, :], mask=x_mask, other=0.0)
        a_mask = is_k[:, None] & is_row[None, :]
        a_tile = tl.load(pool + offsets[None, :] + k[:, None], mask=a_mask, other=0.0)
        total = tl.dot(x_tile, a_tile, total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def shrink(
    x,
    pool,
    row_offsets,
    run_starts,
    ranks,
    tokens,
    slots,
    masks,
    segment_starts,
    siblings,
    v,
    x_stride,
    in_features,
    part_features,
    layer,
    num_layers,
    num_modules,
    max_rank,
    num_pairs,
    num_segments,
    num_blocks,
    NUM_SIBLINGS: tl.constexpr,
    BY_SEGMENT: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program: BLOCK_R rank rows of a tile's adapter, over `part_features` of the features.

    Grid: (tiles * num_blocks, parts). `part_features` is a multiple of BLOCK_K.
    """
    tile, block = tl.program_id(0) // num_blocks, tl.program_id(0) % num_blocks
    first, tile_end = _find_pairs(
        slots, masks, segment_starts, 0, num_pairs, num_segments, tile, BY_SEGMENT, BLOCK_S, BLOCK_T
    )
    if first >= tile_end:
        return
    slot = tl.load(slots + first)
    row = block * BLOCK_R + tl.arange(0, BLOCK_R)
    entry, column, height = _stack_rows(
        row,
        siblings,
        run_starts,
        ranks,
        slot,
        masks,
        first,
        layer,
        num_layers,
        num_modules,
        max_rank,
        NUM_SIBLINGS,
    )
    if block * BLOCK_R >= height:
        return
    is_row = row < height
    offsets = tl.load(row_offsets + entry, mask=is_row, other=0)
    pair = first + tl.arange(0, BLOCK_T)
    is_pair = pair < tile_end
    x_offsets = tl.load(tokens + pair, mask=is_pair, other=0).to(tl.int64) * x_stride
    part = tl.program_id(1)
    start = part * part_features
    end = tl.minimum(start + part_features, in_features)
    if tl.max(offsets % _ROW_ALIGNMENT, 0) == 0:
        products = _dot_rows(
            x,
            x_offsets,
            is_pair,
            pool,
            offsets,
            is_row,
            start,
            end,
            _ROW_ALIGNMENT,
            BLOCK_T,
            BLOCK_R,
            BLOCK_K,
        )
    else:
        products = _dot_rows(
            x,
            x_offsets,
            is_pair,
            pool,
            offsets,
            is_row,
            start,
            end,
            1,
            BLOCK_T,
            BLOCK_R,
            _UNALIGNED_BLOCK,
        )
    v_rows = (part.to(tl.int64) * num_pairs + pair) * (NUM_SIBLINGS * max_rank)
    mask = is_pair[:, None] & is_row[None, :]
    tl.store(v + v_rows[:, None] + column[None, :], products, mask=mask)


@triton.jit
def _find_sibling(siblings, block, NUM_SIBLINGS: tl.constexpr, BLOCK_N: tl.constexpr):
    """The sibling that a block of columns belongs to, and the block's number within it."""
    sibling, number, before = 0, block, 0
    for s in tl.static_range(NUM_SIBLINGS):
        blocks = (tl.load(siblings + 3 * s + 2) + BLOCK_N - 1) // BLOCK_N
        is_here = (block >= before) & (block < before + blocks)
        sibling = tl.where(is_here, s, sibling)
        number = tl.where(is_here, block - before, number)
        before += blocks
    return sibling, number


@triton.jit
def _add_columns(
    v,
    v_rows,
    part_stride,
    weight,
    is_pair,
    pool,
    offsets,
    rank,
    max_rank,
    y,
    y_rows,
    first_column,
    out_features,
    NUM_PARTS: tl.constexpr,
    NUM_TERMS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """y += weight * (v B) for BLOCK_T pairs and BLOCK_N columns of one projection.

    `offsets` points to the run's entries in `row_offsets`. The parts of v are added in order. B
    stays in the pool's dtype, and v becomes the sum of NUM_TERMS values of it.
    """
    columns = first_column + tl.arange(0, BLOCK_N)
    is_column = columns < out_features
    y_block = y + y_rows[:, None] + columns[None, :]
    y_mask = is_pair[:, None] & is_column[None, :]
    old = tl.load(y_block, mask=y_mask, other=0.0)  # before the products: it takes as long
    total = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    for start in range(0, rank, BLOCK_R):
        rows = start + tl.arange(0, BLOCK_R)
        is_row = rows < rank
        # Read up to max_rank, a rounder number than the rank, in wide pieces; what is undefined
        # there is dropped.
        v_mask = is_pair[:, None] & (rows < max_rank)[None, :]
        v_block = tl.zeros([BLOCK_T, BLOCK_R], tl.float32)
        for part in tl.static_range(NUM_PARTS):
            v_part = v + part * part_stride + v_rows[:, None] + rows[None, :]
            v_block += tl.load(v_part, mask=v_mask, other=0.0)
        v_block = tl.where(is_row[None, :], v_block, 0.0)
        # As for A: changes nothing where the rows are aligned, but tells the compiler.
        starts = tl.load(offsets + rows, mask=is_row, other=0) // ALIGNMENT * ALIGNMENT
        b_mask = is_row[:, None] & is_column[None, :]
        b_block = tl.load(pool + starts[:, None] + columns[None, :], mask=b_mask, other=0.0)
        high = v_block.to(b_block.dtype)
        total = tl.dot(high, b_block, total, input_precision="ieee")
        if NUM_TERMS == 2:
            low = (v_block - high.to(tl.float32)).to(b_block.dtype)
            total = tl.dot(low, b_block, total, input_precision="ieee")
    new = old.to(tl.float32) + weight[:, None] * total
    tl.store(y_block, new.to(y.dtype.element_ty), mask=y_mask)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def expand(
    v,
    pool,
    row_offsets,
    run_starts,
    ranks,
    tokens,
    slots,
    masks,
    weights,
    segment_starts,
    siblings,
    y,
    y_stride,
    layer,
    num_layers,
    num_modules,
    max_rank,
    num_pairs,
    first_pair,
    end_pair,
    first_segment,
    num_segments,
    num_blocks,
    NUM_SIBLINGS: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    NUM_TERMS: tl.constexpr,
    BY_SEGMENT: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RUN_BLOCK: tl.constexpr,
    COLUMN_ALIGNMENT: tl.constexpr,
):
    """One program: BLOCK_N columns of one projection, for the pairs of a tile.

    Grid: (tiles * num_blocks,), num_blocks the sum over the siblings of their blocks of columns.
    The tiles are those of one round: `first_pair` to `end_pair` of all `num_pairs`, `num_segments`
    from `first_segment` on. RUN_BLOCK is a power of two and at least `max_rank`.
    """
    tile, block = tl.program_id(0) // num_blocks, tl.program_id(0) % num_blocks
    first, tile_end = _find_pairs(
        slots,
        masks,
        segment_starts + first_segment,
        first_pair,
        end_pair,
        num_segments,
        tile,
        BY_SEGMENT,
        BLOCK_S,
        BLOCK_T,
    )
    if first >= tile_end:
        return
    s, number = _find_sibling(siblings, block, NUM_SIBLINGS, BLOCK_N)
    module = tl.load(siblings + 3 * s)
    slot = tl.load(slots + first)
    run, rank = find_run(run_starts, ranks, slot, layer, num_layers, num_modules, module, 1)
    rank = _rank_for(rank, masks, first, s)
    if rank == 0:
        return
    # As for the rows: changes nothing, but tells the compiler how wide it may read.
    out_start = tl.load(siblings + 3 * s + 1) // COLUMN_ALIGNMENT * COLUMN_ALIGNMENT
    out_features = tl.load(siblings + 3 * s + 2) // COLUMN_ALIGNMENT * COLUMN_ALIGNMENT
    pair = first + tl.arange(0, BLOCK_T)
    is_pair = pair < tile_end
    y_rows = tl.load(tokens + pair, mask=is_pair, other=0).to(tl.int64) * y_stride
    y_rows = y_rows // COLUMN_ALIGNMENT * COLUMN_ALIGNMENT + out_start
    weight = tl.load(weights + pair, mask=is_pair, other=0.0)
    v_width = NUM_SIBLINGS * max_rank
    v_rows = pair.to(tl.int64) * v_width + s * max_rank
    part_stride = num_pairs.to(tl.int64) * v_width
    offsets = row_offsets + run
    in_run = tl.arange(0, RUN_BLOCK)
    if tl.max(tl.load(offsets + in_run, mask=in_run < rank, other=0) % _ROW_ALIGNMENT, 0) == 0:
        _add_columns(
            v,
            v_rows,
            part_stride,
            weight,
            is_pair,
            pool,
            offsets,
            rank,
            max_rank,
            y,
            y_rows,
            number * BLOCK_N,
            out_features,
            NUM_PARTS,
            NUM_TERMS,
            _ROW_ALIGNMENT,
            BLOCK_T,
            BLOCK_R,
            BLOCK_N,
        )
    else:
        for first_column in range(number * BLOCK_N, (number + 1) * BLOCK_N, _UNALIGNED_BLOCK):
            _add_columns(
                v,
                v_rows,
                part_stride,
                weight,
                is_pair,
                pool,
                offsets,
                rank,
                max_rank,
                y,
                y_rows,
                first_column,
                out_features,
                NUM_PARTS,
                NUM_TERMS,
                1,
                BLOCK_T,
                _UNALIGNED_BLOCK,
                _UNALIGNED_BLOCK,
            )
