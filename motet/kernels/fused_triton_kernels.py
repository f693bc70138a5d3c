# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The Triton programs between the matrix products of a layer. `fused_triton.py` launches them.

Owns: the programs. Does not know: how many of them run, nor the sizes of their blocks.

Arithmetic is in float32. Where the reference rounds to the dtype on the way, so do they: the
difference shows in half precision. Offsets of tokens and into the pool are 64-bit.
"""

import triton
import triton.language as tl


@triton.jit
def add_rms_norm_kernel(
    residual_ptr, delta_ptr, weight_ptr, out_ptr, size, eps, block: tl.constexpr
):
    """One row, read once. delta_ptr may be None."""
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * size
    columns = tl.arange(0, block)
    valid = columns < size
    stream = tl.load(residual_ptr + row + columns, mask=valid, other=0.0)
    if delta_ptr is not None:
        delta = tl.load(delta_ptr + row + columns, mask=valid, other=0.0)
        stream = (stream.to(tl.float32) + delta.to(tl.float32)).to(dtype)
        tl.store(residual_ptr + row + columns, stream, mask=valid)
    weight = tl.load(weight_ptr + columns, mask=valid, other=0.0)
    x = stream.to(tl.float32)
    normed = (x * tl.rsqrt(tl.sum(x * x, 0) / size + eps)).to(dtype)
    out = normed.to(tl.float32) * weight.to(tl.float32)
    tl.store(out_ptr + row + columns, out.to(dtype), mask=valid)


@triton.jit
def norm_heads(low, high, weight_ptrs, mask, eps, head_dim: tl.constexpr):
    """RMSNorm of the heads whose halves are low and high, each with weights of its own."""
    x, y = low.to(tl.float32), high.to(tl.float32)
    mean_square = (tl.sum(x * x, 1) + tl.sum(y * y, 1)) / head_dim
    factor = tl.rsqrt(mean_square + eps)[:, None]
    x, y = (x * factor).to(low.dtype).to(tl.float32), (y * factor).to(low.dtype).to(tl.float32)
    x *= tl.load(weight_ptrs, mask=mask, other=0.0).to(tl.float32)
    y *= tl.load(weight_ptrs + head_dim // 2, mask=mask, other=0.0).to(tl.float32)
    return x.to(low.dtype), y.to(low.dtype)


@triton.jit
def rotate_heads(low, high, cos_ptrs, mask, head_dim: tl.constexpr):
    """The heads whose halves are low and high, turned by the angles of one position."""
    cos = tl.load(cos_ptrs, mask=mask, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(cos_ptrs + head_dim // 2, mask=mask, other=0.0).to(tl.float32)[None, :]
    x, y = low.to(tl.float32), high.to(tl.float32)
    return (x * cos - y * sin).to(low.dtype), (y * cos + x * sin).to(low.dtype)


@triton.jit
def rotate_and_write_kv_kernel(
    qkv_ptr,
    norm_ptr,
    rotary_ptr,
    positions_ptr,
    pages_ptr,
    slots_ptr,
    eps,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_heads: tl.constexpr,
    block_half: tl.constexpr,
):
    """A block of one token's heads: of q (changed), of k (changed and stored), of v (stored).

    norm_ptr and rotary_ptr may be None.
    """
    half: tl.constexpr = head_dim // 2
    num_qk_heads: tl.constexpr = num_heads + num_kv_heads
    num_all_heads: tl.constexpr = num_qk_heads + num_kv_heads
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * block_heads + tl.arange(0, block_heads)
    dims = tl.arange(0, block_half)
    valid = (heads < num_all_heads)[:, None] & (dims < half)[None, :]
    is_qk = (heads < num_qk_heads)[:, None]
    elems = heads[:, None] * head_dim + dims[None, :]
    low_ptrs = qkv_ptr + token * (num_all_heads * head_dim) + elems
    low = tl.load(low_ptrs, mask=valid, other=0.0)
    high = tl.load(low_ptrs + half, mask=valid, other=0.0)

    if (norm_ptr is not None) or (rotary_ptr is not None):
        new_low, new_high = low, high
        if norm_ptr is not None:
            new_low, new_high = norm_heads(
                new_low, new_high, norm_ptr + elems, valid & is_qk, eps, head_dim
            )
        if rotary_ptr is not None:
            cos_ptrs = rotary_ptr + tl.load(positions_ptr + token) * head_dim + dims
            new_low, new_high = rotate_heads(new_low, new_high, cos_ptrs, dims < half, head_dim)
        # v comes through unconverted, so that it keeps its bits, whatever they are.
        low = tl.where(is_qk, new_low, low)
        high = tl.where(is_qk, new_high, high)
        tl.store(low_ptrs, low, mask=valid & is_qk)
        tl.store(low_ptrs + half, high, mask=valid & is_qk)

    slot = tl.load(slots_ptr + token)
    if slot >= 0:
        # In a page, K of all its tokens comes before V of all its tokens. The step to V is a
        # product, because the compiler sees through it, and not through tl.where, that 16-byte
        # stores fit.
        token_elems: tl.constexpr = num_kv_heads * head_dim
        token_start = (slot + slot // page_size * page_size) * token_elems
        to_side = (heads >= num_qk_heads).to(tl.int32) * ((page_size - 1) * token_elems)
        kv_ptrs = pages_ptr + token_start + (to_side - num_heads * head_dim)[:, None] + elems
        is_kv = (heads >= num_heads)[:, None]
        tl.store(kv_ptrs, low, mask=valid & is_kv)
        tl.store(kv_ptrs + half, high, mask=valid & is_kv)


@triton.jit
def silu_mul_kernel(gate_up_ptr, out_ptr, size, block: tl.constexpr):
    """A block of one row's columns."""
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    valid = columns < size
    gate_ptrs = gate_up_ptr + token * 2 * size + columns
    gate = tl.load(gate_ptrs, mask=valid, other=0.0).to(tl.float32)
    up = tl.load(gate_ptrs + size, mask=valid, other=0.0).to(tl.float32)
    silu = (gate / (1.0 + tl.exp(-gate))).to(dtype)
    tl.store(out_ptr + token * size + columns, (silu.to(tl.float32) * up).to(dtype), mask=valid)
