"""What stands between the matrix products of a layer, on a CPU.

Owns: the checks of what the compiled loops (`fused_cpu_loops.py`) take.
Does not know: how the loops divide their work.

float32 runs in loops of our own, each one pass over its rows. Other dtypes take the reference:
right, but not fast.
"""

import torch
from torch import Tensor

from motet.kernels import fused_cpu_loops as loops
from motet.kernels import fused_reference
from motet.kernels.fused_checks import (
    check_add_rms_norm,
    check_rotate_and_write_kv,
    check_silu_mul,
)
from motet.kernels.types import HeadTransform


def add_rms_norm(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """residual += delta; returns residual / sqrt(mean(residual^2) + eps) * weight.

    Args:
        residual: [num_tokens, size], contiguous, changed in place.
        delta: likewise, left alone; None adds nothing.
        weight: [size].
        eps: added to the mean square.

    Returns:
        [num_tokens, size], contiguous.
    """
    check_add_rms_norm(residual, delta, weight)
    if residual.dtype != torch.float32:
        return fused_reference.add_rms_norm(residual, delta, weight, eps)
    out = torch.empty_like(residual)
    loops.add_rms_norm(
        residual.data_ptr(),
        0 if delta is None else delta.data_ptr(),
        weight.data_ptr(),
        out.data_ptr(),
        residual.shape[0],
        residual.shape[1],
        eps,
        torch.get_num_threads(),
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
    """Norm and rotate the heads of q and k in place, then store k and v in their pages.

    See `fused_reference.rotate_and_write_kv` for the equations.

    Args:
        qkv: [num_tokens, num_heads + 2 * num_kv_heads, head_dim], contiguous.
        transform: what q and k go through.
        positions: int64 [num_tokens].
        pool: [num_layers, num_pages, page_elems], contiguous.
        kv_slots: int64 [num_tokens]; a token whose slot is negative is not stored.
        page_size: KV tokens in a page.
        num_kv_heads: heads of k, and of v.
    """
    check_rotate_and_write_kv(qkv, transform, positions, pool, kv_slots, page_size, num_kv_heads)
    if qkv.dtype != torch.float32:
        fused_reference.rotate_and_write_kv(
            qkv, transform, positions, pool, layer, kv_slots, page_size, num_kv_heads
        )
        return
    num_tokens, num_all_heads, head_dim = qkv.shape
    loops.rotate_and_write_kv(
        qkv.data_ptr(),
        num_tokens,
        (num_all_heads, num_kv_heads, head_dim),
        (
            0 if transform.norm is None else transform.norm.data_ptr(),
            transform.eps,
            0 if transform.rotary is None else transform.rotary.data_ptr(),
        ),
        positions.data_ptr(),
        pool.data_ptr() + layer * pool.stride(0) * pool.element_size(),
        kv_slots.data_ptr(),
        page_size,
        torch.get_num_threads(),
    )


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, silu(x) = x / (1 + exp(-x)).

    Args:
        gate_up: [num_tokens, 2 * size], contiguous, gate before up.

    Returns:
        [num_tokens, size], contiguous.
    """
    check_silu_mul(gate_up)
    if gate_up.dtype != torch.float32:
        return fused_reference.silu_mul(gate_up)
    num_tokens, double_size = gate_up.shape
    out = torch.empty((num_tokens, double_size // 2))
    loops.silu_mul(
        gate_up.data_ptr(), out.data_ptr(), num_tokens, out.shape[1], torch.get_num_threads()
    )
    return out
