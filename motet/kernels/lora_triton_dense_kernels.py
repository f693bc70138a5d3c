# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The device code behind `lora_triton_dense.py`: what makes matrices of rank rows and of v.

Owns: what one program copies.
Does not know: torch, the products. Arguments as in `lora_triton_kernels.py`; the batch has one
adapter, that of its first pair.
"""

import triton
import triton.language as tl

from motet.kernels.lora_triton_kernels import find_run


@triton.jit(do_not_specialize=["layer"])
def gather_rows(
    pool,
    row_offsets,
    run_starts,
    ranks,
    slots,
    siblings,
    rows,
    width,
    num_siblings,
    layer,
    num_layers,
    num_modules,
    max_rank,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: BLOCK columns of one row of `rows`, [runs * max_rank, width].

    Run i is of sibling i % num_siblings; rows at and above its true rank become zero.
    """
    row = tl.program_id(0)
    s, j = row // max_rank % num_siblings, row % max_rank
    module = tl.load(siblings + 3 * s)
    slot = tl.load(slots)
    run, rank = find_run(run_starts, ranks, slot, layer, num_layers, num_modules, module, SIDE)
    offset = tl.load(row_offsets + tl.where(j < rank, run + j, 0))
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    width_read = tl.where(j < rank, width, 0)
    values = tl.load(pool + offset + column, mask=column < width_read, other=0.0)
    tl.store(rows + row.to(tl.int64) * width + column, values, mask=column < width)


@triton.jit(do_not_specialize=["layer", "num_pairs"])
def weigh(
    v,
    run_starts,
    ranks,
    tokens,
    slots,
    weights,
    siblings,
    weighted,
    layer,
    num_layers,
    num_modules,
    max_rank,
    num_pairs,
    NUM_PARTS: tl.constexpr,
    NUM_TERMS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One program: BLOCK_T pairs of one sibling of `weighted`, where see `lora_triton_dense`."""
    s = tl.program_id(1)
    slot = tl.load(slots)
    module = tl.load(siblings + 3 * s)
    _, rank = find_run(run_starts, ranks, slot, layer, num_layers, num_modules, module, 0)
    pair = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_pair = pair < num_pairs
    j = tl.arange(0, BLOCK_R)
    is_defined = is_pair[:, None] & (j < rank)[None, :]
    v_rows = (pair.to(tl.int64) * tl.num_programs(1) + s) * max_rank
    part_stride = num_pairs.to(tl.int64) * tl.num_programs(1) * max_rank
    total = tl.zeros([BLOCK_T, BLOCK_R], tl.float32)
    for part in tl.static_range(NUM_PARTS):
        v_part = v + part * part_stride + v_rows[:, None] + j[None, :]
        total += tl.load(v_part, mask=is_defined, other=0.0)
    total *= tl.load(weights + pair, mask=is_pair, other=0.0)[:, None]
    token = tl.load(tokens + pair, mask=is_pair, other=0).to(tl.int64)
    out_rows = (s.to(tl.int64) * num_pairs + token) * (NUM_TERMS * max_rank)
    out = weighted + out_rows[:, None] + j[None, :]
    mask = is_pair[:, None] & (j < max_rank)[None, :]
    high = total.to(weighted.dtype.element_ty)
    tl.store(out, high, mask=mask)
    if NUM_TERMS == 2:
        low = (total - high.to(tl.float32)).to(weighted.dtype.element_ty)
        tl.store(out + max_rank, low, mask=mask)
