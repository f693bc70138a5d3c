"""Arrow's gates, which follow from the experts themselves (arXiv:2405.11157).

Owns: an expert's prototype in one projection.
Does not know: files, nor how the scores of gates become weights.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motet.adapters.delta import AdapterDeltas, Delta
from motet.core.pacing import Pace
from motet.core.shape import Module

_Matrix = NDArray[np.float64]


def prototype_gates(
    experts: tuple[AdapterDeltas, ...], *, pace: Pace
) -> dict[tuple[int, Module], Tensor]:
    """A gate for each expert wherever at least one is used.

    Returns:
        By (layer, module): float32 [num_experts, in_features]. Rows are of length 1; those of
        experts that do nothing there are zero.
    """
    gates = {}
    for key in sorted({key for expert in experts for key in expert.deltas}):
        deltas = [expert.deltas.get(key) for expert in experts]
        length = next(delta.stored.a.shape[1] for delta in deltas if delta is not None)
        rows = np.zeros((len(experts), length), np.float32)
        for row, delta in zip(rows, deltas, strict=True):
            if delta is not None:
                row[:] = _prototype(delta)
                pace()
        gates[key] = torch.from_numpy(rows)
    return gates


def _prototype(delta: Delta) -> _Matrix:
    """The top right singular vector of B A; its largest element is positive. Zero if B A is zero.

    It is A^T w / |A^T w| for the top eigenvector w of (B^T B)(A A^T), which is no larger than the
    rank. With S the square root of B^T B that is S u, where u is the top eigenvector of the
    symmetric S A A^T S. In float64, since products of stored values are squared here.
    """
    a, b_rows = (np.ascontiguousarray(t.numpy(), np.float64) for t in (delta.a, delta.b.T))
    values, vectors = np.linalg.eigh(_gram(b_rows))
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    top = root @ np.linalg.eigh(root @ _gram(a) @ root)[1][:, -1]
    direction: _Matrix = np.einsum("r,ri->i", top, a)
    norm = np.linalg.norm(direction)
    if norm > 0.0:
        direction *= np.sign(direction[np.abs(direction).argmax()]) / norm
    return direction


def _gram(rows: _Matrix) -> _Matrix:
    """Products of each row with each: [rank, rank]."""
    # Not by BLAS, which shares long sums out over threads that the running step needs: on a busy
    # machine a prototype then took 40 times as long.
    products: _Matrix = np.einsum("ri,si->rs", rows, rows)
    return products
