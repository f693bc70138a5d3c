"""The compiled loops behind `fused_cpu.py`, float32, row by row.

Owns: the inner loops, and when a loop is worth other threads.
Does not know: torch. A tensor comes in as the address of its first element; the callers check.
"""

from typing import Any

import numpy as np
from numba import float32, int64, prange

from motet.kernels.compiled import FASTMATH, compiled, floats, integers
from motet.kernels.math_cpu import exp2

PARALLEL_MIN_ELEMENTS = 12 * 1024
"""Below this the work takes less time than waking the other threads."""

LOG2_E = np.float32(1.4426950408889634)


@compiled()
def _num_shares(num_rows: int, row_elements: int, num_threads: int) -> int:
    return num_threads if num_rows * row_elements >= PARALLEL_MIN_ELEMENTS else 1


@compiled(fastmath=FASTMATH)
def _inverse_rms(x: np.ndarray, eps: float) -> Any:
    """1 / sqrt(mean(x^2) + eps)."""
    total = float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    return float32(1) / np.sqrt(total / float32(len(x)) + float32(eps))


@compiled(fastmath=FASTMATH)
def _norm_rows(
    residual: int, delta: int, weight: int, out: int, width: int, eps: float, first: int, last: int
) -> None:
    w = floats(weight, 0, width)
    for row in range(first, last):
        x, y = floats(residual, row * width, width), floats(out, row * width, width)
        if delta != 0:
            d = floats(delta, row * width, width)
            for i in range(width):
                x[i] += d[i]
        factor = _inverse_rms(x, eps)
        for i in range(width):
            y[i] = x[i] * factor * w[i]


@compiled(parallel=True)
def add_rms_norm(
    residual: int,
    delta: int,
    weight: int,
    out: int,
    num_rows: int,
    width: int,
    eps: float,
    num_threads: int,
) -> None:
    """Addresses of [num_rows, width] and, for `weight`, [width]; a `delta` of 0 is none."""
    shares = _num_shares(num_rows, width, num_threads)
    if shares == 1:
        _norm_rows(residual, delta, weight, out, width, eps, 0, num_rows)
    else:
        for i in prange(shares):
            first, last = num_rows * i // shares, num_rows * (i + 1) // shares
            _norm_rows(residual, delta, weight, out, width, eps, first, last)


@compiled(fastmath=FASTMATH)
def _silu_rows(gate_up: int, out: int, width: int, first: int, last: int) -> None:
    for row in range(first, last):
        gate = floats(gate_up, 2 * row * width, width)
        up = floats(gate_up, (2 * row + 1) * width, width)
        y = floats(out, row * width, width)
        for i in range(width):
            x = gate[i]
            small = exp2(-abs(x) * LOG2_E)  # of the side that cannot overflow
            numerator = float32(1) if x >= float32(0) else small
            y[i] = x * numerator / (float32(1) + small) * up[i]


@compiled(parallel=True)
def silu_mul(gate_up: int, out: int, num_rows: int, width: int, num_threads: int) -> None:
    """Addresses of [num_rows, 2 * width] and [num_rows, width]."""
    shares = _num_shares(num_rows, width, num_threads)
    if shares == 1:
        _silu_rows(gate_up, out, width, 0, num_rows)
    else:
        for i in prange(shares):
            first, last = num_rows * i // shares, num_rows * (i + 1) // shares
            _silu_rows(gate_up, out, width, first, last)


@compiled(fastmath=FASTMATH)
def _transform_head(x: np.ndarray, norm: int, head: int, eps: float, cosines: int) -> None:
    """One head of q or k, in place; a `norm` or `cosines` of 0 is none."""
    size = len(x)
    half = size // 2
    if norm != 0:
        w = floats(norm, head * size, size)
        factor = _inverse_rms(x, eps)
        for i in range(size):
            x[i] = x[i] * factor * w[i]
    if cosines != 0:
        low, high = x[:half], x[half:]
        cos, sin = floats(cosines, 0, half), floats(cosines, half, half)
        for i in range(half):
            a, b = low[i], high[i]
            low[i] = a * cos[i] - b * sin[i]
            high[i] = b * cos[i] + a * sin[i]


@compiled()
def _transform_tokens(
    qkv: int,
    heads: tuple[int, int, int],
    transform: tuple[int, float, int],
    positions: int,
    layer_pool: int,
    kv_slots: int,
    page_size: int,
    first: int,
    last: int,
) -> None:
    num_all_heads, num_kv_heads, head_dim = heads
    norm, eps, rotary = transform
    kv_size = num_kv_heads * head_dim
    slot_of, position_of = integers(kv_slots, last), integers(positions, last)
    for token in range(first, last):
        row = token * num_all_heads * head_dim
        cosines = int64(0)
        if rotary != 0:
            cosines = rotary + 4 * position_of[token] * head_dim
        for head in range(num_all_heads - num_kv_heads):
            x = floats(qkv, row + head * head_dim, head_dim)
            _transform_head(x, norm, head, eps, cosines)
        slot = slot_of[token]
        if slot < 0:
            continue
        page, place = slot // page_size, slot % page_size
        for side in range(2):
            to = floats(layer_pool, ((2 * page + side) * page_size + place) * kv_size, kv_size)
            start = row + (num_all_heads - (2 - side) * num_kv_heads) * head_dim
            source = floats(qkv, start, kv_size)
            for i in range(kv_size):
                to[i] = source[i]


@compiled(parallel=True)
def rotate_and_write_kv(
    qkv: int,
    num_tokens: int,
    heads: tuple[int, int, int],
    transform: tuple[int, float, int],
    positions: int,
    layer_pool: int,
    kv_slots: int,
    page_size: int,
    num_threads: int,
) -> None:
    """See `fused_reference.rotate_and_write_kv`.

    Args:
        qkv, positions, layer_pool, kv_slots: addresses; `layer_pool` is that of one layer.
        heads: of q, k and v together; of k alone; the size of one.
        transform: address of the norm's weights, its eps, address of the rotary table; 0 is none.
    """
    shares = _num_shares(num_tokens, heads[0] * heads[2], num_threads)
    if shares == 1:
        _transform_tokens(
            qkv, heads, transform, positions, layer_pool, kv_slots, page_size, 0, num_tokens
        )
    else:
        for i in prange(shares):
            first, last = num_tokens * i // shares, num_tokens * (i + 1) // shares
            _transform_tokens(
                qkv, heads, transform, positions, layer_pool, kv_slots, page_size, first, last
            )
