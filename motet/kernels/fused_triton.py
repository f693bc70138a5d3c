"""What stands between the matrix products of a layer, in Triton: one launch for each.

Owns: the grids and block sizes, from shapes that the host knows.
Does not know: the model, nor who fills the slots.

All three are bound by memory, or at a few tokens by the launch. A thread moves 16 bytes at a time
where rows are so aligned. No wrapper reads a tensor's values, so a captured graph stays right when
they change. The numbers of warps and of elements per program are chosen by reasoning, not measured.
"""

import torch
import triton
from torch import Tensor

from motet.kernels import fused_triton_kernels as kernels
from motet.kernels.fused_checks import (
    check_add_rms_norm,
    check_rotate_and_write_kv,
    check_silu_mul,
)
from motet.kernels.types import HeadTransform

ELEMS_PER_WARP = 256  # 16 bytes of a 16-bit dtype for each of 32 threads
MAX_WARPS = 16  # of a program; two such programs fill half of an SM
SILU_BLOCK = 1024
HALF_HEADS_BLOCK = 512  # elements of one half of a program's heads


def add_rms_norm(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """residual += delta; returns residual / sqrt(mean(residual^2) + eps) * weight.

    RMSNorm is arXiv 1910.07467. A program keeps its row in registers, so that each is read once.

    Args:
        residual: [num_tokens, size], contiguous, changed in place. float32, bfloat16 or float16.
        delta: likewise, left alone; None adds nothing.
        weight: [size], the same dtype.
        eps: added to the mean square.

    Returns:
        [num_tokens, size], contiguous. Computed in float32; the sum is rounded to the dtype before
        it is normed, and the normed row before it meets the weight.

    Raises:
        AssertionError: a shape, dtype, stride or device does not fit.
    """
    check_add_rms_norm(residual, delta, weight)
    num_tokens, size = residual.shape
    out = torch.empty_like(residual)
    if residual.numel() == 0:
        return out
    block = triton.next_power_of_2(size)
    kernels.add_rms_norm_kernel[(num_tokens,)](
        residual, delta, weight, out, size, eps, block=block, num_warps=_num_warps(block)
    )
    return out


def rotate_and_write_kv(
    qkv: Tensor,
    transform: HeadTransform,
    positions: Tensor,
    pool: Tensor,
    layer: int,
    kv_slots: Tensor,
    page_size: int,
    num_kv_heads: int,
) -> None:
    """Norm and rotate the heads of q and k in place, and store k and v in their pages.

    Dimension i of a head pairs with dimension i + head_dim / 2 (arXiv 2104.09864, half-split):
    out[i] = x[i] cos - x[i + half] sin and out[i + half] = x[i + half] cos + x[i] sin.
    KV[layer, slot // page_size, 0 or 1, slot % page_size] = k[t] or v[t]  with slot = kv_slots[t]

    Args:
        qkv: [num_tokens, num_heads + 2 * num_kv_heads, head_dim], contiguous, the pool's dtype:
            the heads of q, of k, of v. head_dim is even.
        transform: what q and k go through.
        positions: int64 [num_tokens], rows of `transform.rotary`; not checked.
        pool: [num_layers, num_pages, page_elems], contiguous; float32, bfloat16 or float16. The
            named slots change and nothing else.
        kv_slots: int64 [num_tokens]. A token of a negative one (padding of a captured graph) is
            rotated but not stored. Where two are equal, either token's KV may stay.
        page_size: KV tokens in a page.
        num_kv_heads: heads of k, and of v.

    Computed in float32. The norm is rounded to the dtype before it meets its weight and after it;
    the rotation is rounded once.

    Raises:
        AssertionError: a shape, dtype, stride or device does not fit.
    """
    check_rotate_and_write_kv(qkv, transform, positions, pool, kv_slots, page_size, num_kv_heads)
    num_tokens, num_all_heads, head_dim = qkv.shape
    if num_tokens == 0:
        return
    block_half = triton.next_power_of_2(head_dim // 2)
    fitting_heads = max(1, HALF_HEADS_BLOCK // block_half)
    block_heads = min(fitting_heads, triton.next_power_of_2(num_all_heads))
    kernels.rotate_and_write_kv_kernel[(num_tokens, triton.cdiv(num_all_heads, block_heads))](
        qkv,
        transform.norm,
        transform.rotary,
        positions,
        pool[layer],
        kv_slots,
        transform.eps,
        num_heads=num_all_heads - 2 * num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        page_size=page_size,
        block_heads=block_heads,
        block_half=block_half,
        num_warps=_num_warps(block_heads * block_half),
    )


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, silu(x) = x / (1 + exp(-x)), rounded to the dtype before the product.

    Args:
        gate_up: [num_tokens, 2 * size], contiguous, gate before up. float32, bfloat16 or float16.

    Returns:
        [num_tokens, size], contiguous. Computed in float32.

    Raises:
        AssertionError: a shape or stride does not fit.
    """
    check_silu_mul(gate_up)
    num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((num_tokens, size))
    if out.numel() == 0:
        return out
    block = min(SILU_BLOCK, triton.next_power_of_2(size))
    kernels.silu_mul_kernel[(num_tokens, triton.cdiv(size, block))](
        gate_up, out, size, block=block, num_warps=_num_warps(block)
    )
    return out


def _num_warps(num_elems: int) -> int:
    """Warps of a program over so many elements, both a power of two."""
    return min(MAX_WARPS, max(1, num_elems // ELEMS_PER_WARP))
