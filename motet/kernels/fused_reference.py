"""What stands between the matrix products of a layer, in plain torch.

Owns: the meaning of the fused kernels: residual and RMSNorm, rotation and KV write, SiLU and
product. The CPU and Triton implementations are tested against it.
Does not know: speed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from motet.kernels.types import HeadTransform


def add_rms_norm(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """residual += delta; returns residual / sqrt(mean(residual^2) + eps) * weight.

    The sum is rounded to the dtype before it is normed, and the normed row before it meets the
    weight, as in transformers. RMSNorm is arXiv 1910.07467.

    Args:
        residual: [num_tokens, size], changed in place.
        delta: likewise, left alone; None adds nothing.
        weight: [size].
        eps: added to the mean square.

    Returns:
        [num_tokens, size], contiguous.
    """
    if delta is not None:
        residual.add_(delta)
    return F.rms_norm(residual, residual.shape[-1:], eps=eps).mul_(weight)


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

    Dimension i of a head pairs with dimension i + head_dim / 2 (arXiv 2104.09864, half-split):
    out[i] = x[i] cos - x[i + half] sin and out[i + half] = x[i + half] cos + x[i] sin.
    KV[layer, slot // page_size, 0 or 1, slot % page_size] = k[t] or v[t]  with slot = kv_slots[t]

    Args:
        qkv: [num_tokens, num_heads + 2 * num_kv_heads, head_dim]: the heads of q, of k, of v.
        transform: what q and k go through.
        positions: int64 [num_tokens].
        pool: [num_layers, num_pages, page_elems], of which the named slots change and nothing else.
        kv_slots: int64 [num_tokens]. A token of a negative one (padding of a captured graph) is
            rotated but not stored.
        page_size: KV tokens in a page.
        num_kv_heads: heads of k, and of v.
    """
    num_all_heads, head_dim = qkv.shape[1:]
    qk, v = torch.split(qkv, [num_all_heads - num_kv_heads, num_kv_heads], dim=1)
    changed = qk
    if transform.norm is not None:
        changed = F.rms_norm(changed, (head_dim,), eps=transform.eps).mul_(transform.norm)
    if transform.rotary is not None:
        cos, sin = transform.rotary[positions].float().unbind(1)
        low, high = changed.float().chunk(2, dim=-1)
        cos, sin = cos[:, None], sin[:, None]
        changed = torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
    qk.copy_(changed)
    pages = pool[layer].view(-1, 2, page_size, num_kv_heads, head_dim)
    is_stored = kv_slots >= 0
    slots = kv_slots[is_stored]
    pages[slots // page_size, 0, slots % page_size] = qk[is_stored, -num_kv_heads:]
    pages[slots // page_size, 1, slots % page_size] = v[is_stored]


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, silu(x) = x / (1 + exp(-x)), rounded to the dtype before the product.

    Args:
        gate_up: [num_tokens, 2 * size], gate before up.

    Returns:
        [num_tokens, size], contiguous.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
