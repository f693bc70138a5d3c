"""A weight matrix of the model, in whatever form its device multiplies fastest.

Owns: `Matrix`, and which form a device and a storage type take.
Does not know: which matrix it is (`weights.py`), nor how a packed one is multiplied
(`kernels/linear_cpu.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Matrix(Protocol):
    """W, [out_features, in_features]."""

    @property
    def out_features(self) -> int: ...

    @property
    def num_bytes(self) -> int:
        """What a product reads of it."""
        ...

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """W x + b over rows: [num_rows, in_features] to [num_rows, out_features], contiguous."""
        ...

    def rows(self, row_ids: Tensor) -> Tensor:
        """W[row_ids], [len(row_ids), in_features] in the model's dtype; row_ids is int64."""
        ...


@dataclass(frozen=True, slots=True)
class DenseMatrix:
    """A plain tensor, multiplied by the device's BLAS."""

    weight: Tensor

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    @property
    def num_bytes(self) -> int:
        return self.weight.numel() * self.weight.element_size()

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, self.weight, bias)

    def rows(self, row_ids: Tensor) -> Tensor:
        return F.embedding(row_ids, self.weight)


def matrix_maker(
    device: torch.device, dtype: torch.dtype, storage: torch.dtype
) -> Callable[[Tensor], Matrix]:
    """What turns a weight [out_features, in_features] of `dtype` on `device` into a matrix.

    Args:
        device: where the model runs.
        dtype: that of the model's activations.
        storage: that of the weights; another than `dtype` is for a CPU that computes in float32.
            A matrix whose width cannot be packed stays in float32.
    """
    if device.type != "cpu" or dtype != torch.float32:
        assert storage == dtype, f"weights in {storage} are for a CPU that computes in float32"
        return DenseMatrix

    from motet.kernels.linear_cpu import PackedMatrix  # a GPU does without Numba

    def pack(weight: Tensor) -> Matrix:
        # No real model has other widths, and tests may.
        if not PackedMatrix.can_pack(weight.shape[1]):
            return DenseMatrix(weight)
        return PackedMatrix.pack(weight, storage)

    return pack
