"""Shrinks and expands of batches with any sizes: what is compared and timed.

Owns: inputs and outputs.
Does not know: which sizes are tried, nor how time is taken.
"""

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from benchmarks.gpu.lora_tuning.batches import LoraBatches
from motet.kernels import lora_triton_tiles as tiles
from motet.kernels.lora_triton_sizes import ExpandSizes, ShrinkSizes

Sizes = TypeVar("Sizes", ShrinkSizes, ExpandSizes, contravariant=True)


class Work(Protocol[Sizes]):
    """One kernel and its batches."""

    batches: LoraBatches

    def launch(self, sizes: Sizes, i: int) -> None:
        """Launch the kernel for batch i."""
        ...

    def result(self, sizes: Sizes) -> Tensor:
        """What the kernel computes for the first batch, in float32."""
        ...


class ShrinkWork:
    """v = A x of random x. The parts of a result are added."""

    def __init__(self, batches: LoraBatches) -> None:
        self.batches = batches
        self._x = _random(batches, batches.in_features).to(batches.pool.dtype)

    def launch(self, sizes: ShrinkSizes, i: int) -> None:
        self._shrink(sizes, i)

    def result(self, sizes: ShrinkSizes) -> Tensor:
        return self._shrink(sizes, 0).sum(0)

    def _shrink(self, sizes: ShrinkSizes, i: int) -> Tensor:
        own = self.batches
        pairs = own.batches[i]
        return tiles.shrink(self._x, own.pool, own.tables, pairs, 0, own.projections, sizes)


class ExpandWork:
    """y += B v of random v, all batches into one y; a result begins with zeros."""

    def __init__(self, batches: LoraBatches) -> None:
        self.batches = batches
        num_ranks = len(batches.projections) * batches.batches[0].max_rank
        v = _random(batches, num_ranks)
        self._v = v.view(1, batches.num_tokens, len(batches.projections), -1)
        self._y = torch.zeros(
            batches.num_tokens, batches.out_features, dtype=batches.pool.dtype, device=v.device
        )

    def launch(self, sizes: ExpandSizes, i: int) -> None:
        own = self.batches
        pairs = own.batches[i]
        where = (own.pool, own.tables, pairs, 0, own.projections)
        tiles.expand(self._v, *where, self._y, tiles.whole(pairs), sizes)

    def result(self, sizes: ExpandSizes) -> Tensor:
        self._y.zero_()
        self.launch(sizes, 0)
        return self._y.float()


def _random(batches: LoraBatches, width: int) -> Tensor:
    return torch.randn(batches.num_tokens, width, device=batches.pool.device)
