"""Inputs for the tests of the fused kernels, poisoned wherever a kernel must not look, and answers.

The answers are computed in float64, apart from the kernels, and rounded to the dtype only where the
kernels must round.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motet.kernels.types import HeadTransform

LAYER = 1
EPS = 1e-5
GUARD = 64
SAME_SIZE_INT = {2: torch.int16, 4: torch.int32}


def bits(x: Tensor) -> Tensor:
    """Its bit patterns, in which NaN equals itself."""
    return x.cpu().view(SAME_SIZE_INT[x.element_size()])


def ordered(x: Tensor) -> Tensor:
    """Integers in which neighbours differ by one unit in the last place; -0 and 0 are one."""
    pattern = bits(x).long()
    magnitudes = pattern & (2 ** (8 * x.element_size() - 1) - 1)
    return torch.where(pattern < 0, -magnitudes, magnitudes)


def fenced(x: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """A contiguous copy of x between two runs of NaN, and the whole buffer."""
    buffer = torch.full((x.numel() + 2 * GUARD,), torch.nan, dtype=x.dtype, device=device)
    inner = buffer[GUARD : GUARD + x.numel()].view(x.shape)
    inner.copy_(x)
    return inner, buffer


def fence_holds(buffer: Tensor) -> bool:
    return bool(buffer[:GUARD].isnan().all() and buffer[-GUARD:].isnan().all())


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float64, rounded to a dtype."""
    return x.to(dtype).double()


def expected_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """float64 rows of x, normed; rounded before and after they meet the weight."""
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt()
    return rounded(rounded(exact, x.dtype) * weight.double(), x.dtype)


@dataclass(frozen=True)
class KvCase:
    """What `rotate_and_write_kv` takes."""

    qkv: Tensor
    transform: HeadTransform
    positions: Tensor
    pool: Tensor
    kv_slots: Tensor
    page_size: int
    num_kv_heads: int

    def to(self, device: str) -> "KvCase":
        """A copy on a device; qkv keeps its own memory, fenced."""
        norm, rotary = (
            None if x is None else x.to(device)
            for x in (self.transform.norm, self.transform.rotary)
        )
        return replace(
            self,
            qkv=fenced(self.qkv, device)[0],
            transform=HeadTransform(norm, self.transform.eps, rotary),
            positions=self.positions.to(device),
            pool=self.pool.to(device, copy=True),
            kv_slots=self.kv_slots.to(device),
        )

    def arguments(self, layer: int = LAYER) -> tuple[object, ...]:
        return (
            self.qkv,
            self.transform,
            self.positions,
            self.pool,
            layer,
            self.kv_slots,
            self.page_size,
            self.num_kv_heads,
        )


def make_kv_case(
    seed: int,
    num_tokens: int,
    *,
    num_heads: int = 6,
    num_kv_heads: int = 2,
    head_dim: int = 16,
    page_size: int = 8,
    has_norm: bool = True,
    has_rotary: bool = True,
    dtype: torch.dtype = torch.float32,
) -> KvCase:
    """Random tokens at random positions, out of order, for random slots of a pool of NaN.

    Rows of the rotary table at other positions are NaN.
    """
    rng = torch.Generator().manual_seed(seed)
    num_pages = num_tokens // page_size + 3
    max_positions = 4 * num_tokens + 5
    positions = torch.randint(max_positions, (num_tokens,), generator=rng)
    angles = 7 * torch.rand(max_positions, head_dim // 2, generator=rng)
    rotary = torch.full((max_positions, 2, head_dim // 2), torch.nan)
    rotary[positions] = torch.stack((angles.cos(), angles.sin()), dim=1)[positions]
    norm = torch.randn(num_heads + num_kv_heads, head_dim, generator=rng)
    qkv = 3 * torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim, generator=rng)
    return KvCase(
        qkv=qkv.to(dtype),
        transform=HeadTransform(
            norm=norm.to(dtype) if has_norm else None,
            eps=EPS,
            rotary=rotary.to(dtype) if has_rotary else None,
        ),
        positions=positions,
        pool=torch.full((3, num_pages, 2 * page_size * num_kv_heads * head_dim), torch.nan).to(
            dtype
        ),
        kv_slots=torch.randperm(num_pages * page_size, generator=rng)[:num_tokens],
        page_size=page_size,
        num_kv_heads=num_kv_heads,
    )


def expected_qkv(case: KvCase) -> Tensor:
    """float64 q, k and v after the transform, one head at a time."""
    out = case.qkv.double()
    dtype = case.qkv.dtype
    num_changed_heads = case.qkv.shape[1] - case.num_kv_heads
    half = case.qkv.shape[2] // 2
    for t, position in enumerate(case.positions.tolist()):
        for h in range(num_changed_heads):
            head = case.qkv[t, h].double()
            if case.transform.norm is not None:
                head = expected_norm(case.qkv[t, h], case.transform.norm[h], case.transform.eps)
            if case.transform.rotary is not None:
                cos, sin = case.transform.rotary[position].double()
                turned = torch.complex(head[:half], head[half:]) * torch.complex(cos, sin)
                head = rounded(torch.cat((turned.real, turned.imag)), dtype)
            out[t, h] = head
    return out


def expected_pool(case: KvCase, qkv: Tensor) -> Tensor:
    """The pool before the call, with k and v of `qkv` (after the transform) in their slots."""
    pool = case.pool.clone()
    num_kv_heads = case.num_kv_heads
    for t, slot in enumerate(case.kv_slots.tolist()):
        if slot < 0:
            continue
        page = pool[LAYER, slot // case.page_size].view(
            2, case.page_size, num_kv_heads, case.qkv.shape[2]
        )
        page[0, slot % case.page_size] = qkv[t, -2 * num_kv_heads : -num_kv_heads]
        page[1, slot % case.page_size] = qkv[t, -num_kv_heads:]
    return pool
