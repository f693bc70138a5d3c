"""What every fast implementation of the fused kernels asks of its arguments.

Owns: the assertions. Does not know: devices.
"""

import torch
from torch import Tensor

from motet.kernels.attention_checks import check_pool
from motet.kernels.types import HeadTransform


def check_add_rms_norm(residual: Tensor, delta: Tensor | None, weight: Tensor) -> None:
    """Raises: AssertionError, saying what does not fit."""
    assert residual.dim() == 2, (
        f"residual is {tuple(residual.shape)}; expected [num_tokens, size]: view it so"
    )
    assert weight.shape == residual.shape[1:], (
        f"weight is {tuple(weight.shape)} for rows of {residual.shape[1]}; pass one for each column"
    )
    _check_alike("residual", residual, "weight", weight)
    if delta is not None:
        assert delta.shape == residual.shape, (
            f"delta is {tuple(delta.shape)}, residual {tuple(residual.shape)}; pass equal shapes"
        )
        _check_alike("residual", residual, "delta", delta)


def check_rotate_and_write_kv(
    qkv: Tensor,
    transform: HeadTransform,
    positions: Tensor,
    pool: Tensor,
    kv_slots: Tensor,
    page_size: int,
    num_kv_heads: int,
) -> None:
    """Raises: AssertionError, saying what does not fit."""
    assert qkv.dim() == 3, (
        f"qkv is {tuple(qkv.shape)}; expected [num_tokens, heads, head_dim]: view it so"
    )
    num_tokens, num_all_heads, head_dim = qkv.shape
    assert num_kv_heads > 0, f"{num_kv_heads} KV heads; pass a positive number"
    assert num_all_heads > 2 * num_kv_heads, (
        f"qkv has {num_all_heads} heads, {num_kv_heads} each of k and v: none is left for q;"
        f" pass q, k and v in one tensor"
    )
    assert head_dim % 2 == 0, f"head_dim is {head_dim}; expected an even number"
    _check_alike("qkv", qkv, "pool", pool)
    check_pool(pool, page_size, num_kv_heads, head_dim)
    for name, indices in (("positions", positions), ("kv_slots", kv_slots)):
        assert indices.shape == (num_tokens,), (
            f"{name} has shape {tuple(indices.shape)} for {num_tokens} tokens; pass one for each"
        )
        assert indices.dtype == torch.int64, f"{name} is {indices.dtype}; convert it to int64"
        assert indices.is_contiguous(), f"{name} is a view with gaps; pass a contiguous one"
        _check_same_device("qkv", qkv, name, indices)
    if transform.norm is not None:
        assert transform.norm.shape == (num_all_heads - num_kv_heads, head_dim), (
            f"norm is {tuple(transform.norm.shape)}; expected a row of {head_dim} for each of"
            f" {num_all_heads - num_kv_heads} heads of q and k"
        )
        _check_alike("qkv", qkv, "norm", transform.norm)
    if transform.rotary is not None:
        assert transform.rotary.shape[1:] == (2, head_dim // 2), (
            f"rotary is {tuple(transform.rotary.shape)}; expected [positions, 2, {head_dim // 2}]"
        )
        _check_alike("qkv", qkv, "rotary", transform.rotary)


def check_silu_mul(gate_up: Tensor) -> None:
    """Raises: AssertionError, saying what does not fit."""
    assert gate_up.dim() == 2, (
        f"gate_up is {tuple(gate_up.shape)}; expected [num_tokens, 2 * size]: view it so"
    )
    assert gate_up.shape[1] % 2 == 0, (
        f"gate_up has {gate_up.shape[1]} columns; expected an even number, gate before up"
    )
    assert gate_up.is_contiguous(), "gate_up is a view with gaps; pass a contiguous one"


def _check_alike(name: str, first: Tensor, other_name: str, other: Tensor) -> None:
    """One dtype, one device, and no gaps."""
    assert first.dtype == other.dtype, (
        f"{name} is {first.dtype}, {other_name} {other.dtype}; convert one of them"
    )
    _check_same_device(name, first, other_name, other)
    for each_name, each in ((name, first), (other_name, other)):
        assert each.is_contiguous(), f"{each_name} is a view with gaps; pass a contiguous one"


def _check_same_device(name: str, first: Tensor, other_name: str, other: Tensor) -> None:
    assert first.device == other.device, (
        f"{name} is on {first.device}, {other_name} on {other.device}; move one of them"
    )
