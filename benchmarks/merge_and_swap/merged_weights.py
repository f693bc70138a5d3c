"""The decoder's weights with one adapter merged into them.

Owns: the merge, in place, and the way back to the weights as they were, bit for bit.
Does not know: whose turn it is.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from motet.core.shape import GATE_UP, QKV, Module
from motet.kernels.linear_cpu import PackedMatrix
from motet.kernels.types import LoraTables
from motet.memory.device_pool import DevicePool
from motet.models.decoder import Decoder
from motet.models.matrix import DenseMatrix, Matrix
from motet.models.weights import LayerWeights


class MergedWeights:
    """Weights that hold at most one adapter.

    A copy of all weights is kept, so that the way back is exact: subtracting would not be.

    Args:
        decoder: whose weights are changed. They are of the pool's dtype.
        pool: where adapters lie.

    Raises:
        ValueError: the weights are in another dtype than the pool.
    """

    def __init__(self, decoder: Decoder, pool: DevicePool) -> None:
        self._pool = pool
        self._shape = decoder.config.shape
        self._matrices = [list(_matrices(layer)) for layer in decoder.weights.layers]
        self._originals: list[list[Tensor]] = []
        for layer in self._matrices:
            tensors = [_tensor(matrix) for matrix, _ in layer]
            if any(tensor.dtype != pool.data.dtype for tensor in tensors):
                raise ValueError("Merging needs weights in the dtype of the pool.")
            self._originals.append([tensor.clone() for tensor in tensors])

    @torch.inference_mode()
    def merge(self, slot: int | None) -> None:
        """Have the weights be the base's, with the adapter in this slot added; None: without."""
        for layer_index, layer in enumerate(self._matrices):
            originals = self._originals[layer_index]
            for (matrix, modules), original in zip(layer, originals, strict=True):
                rows = {} if slot is None else self._rank_rows(slot, layer_index, modules)
                self._write(matrix, original, modules, rows)

    def tensors(self) -> list[Tensor]:
        """What products read, of all matrices."""
        return [_tensor(matrix) for layer in self._matrices for matrix, _ in layer]

    def _rank_rows(
        self, slot: int, layer: int, modules: Sequence[Module]
    ) -> dict[Module, tuple[Tensor, Tensor]]:
        """A [rank, in_features] and B transposed [rank, out_features] of those that it touches."""
        found = {}
        for module in modules:
            rank = int(self._pool.tables.ranks[slot, layer, module])
            if rank:
                found[module] = (
                    _rows(self._pool, slot, layer, module, 0, self._shape.in_features(module)),
                    _rows(self._pool, slot, layer, module, 1, self._shape.out_features(module)),
                )
        return found

    def _write(
        self,
        matrix: Matrix,
        original: Tensor,
        modules: Sequence[Module],
        rows: Mapping[Module, tuple[Tensor, Tensor]],
    ) -> None:
        target = _tensor(matrix)
        if not rows:
            target.copy_(original)
            return
        deltas = []
        for module in modules:
            out_features, in_features = (
                self._shape.out_features(module),
                self._shape.in_features(module),
            )
            if module in rows:
                a, b = rows[module]
                deltas.append(b.T @ a)
            else:
                deltas.append(target.new_zeros(out_features, in_features))
        delta = torch.cat(deltas)
        if isinstance(matrix, PackedMatrix):
            delta = PackedMatrix.pack(delta, delta.dtype).panels
        torch.add(original, delta, out=target)


def _matrices(layer: LayerWeights) -> Iterator[tuple[Matrix, tuple[Module, ...]]]:
    yield layer.qkv, QKV
    yield layer.o, (Module.O,)
    yield layer.gate_up, GATE_UP
    yield layer.down, (Module.DOWN,)


def _tensor(matrix: Matrix) -> Tensor:
    """What a product reads, in whatever layout."""
    if isinstance(matrix, PackedMatrix):
        return matrix.panels
    assert isinstance(matrix, DenseMatrix)
    return matrix.weight


def _rows(pool: DevicePool, slot: int, layer: int, module: Module, side: int, width: int) -> Tensor:
    """Rank rows out of the pool, [rank, width]: of A (side 0), or columns of B (1)."""
    tables: LoraTables = pool.tables
    rank = int(tables.ranks[slot, layer, module])
    start = int(tables.run_starts[slot, layer, module, side])
    offsets = tables.row_offsets[start : start + rank]
    positions = torch.arange(width, device=offsets.device)
    return pool.data.view(-1)[offsets[:, None] + positions]
