"""Adapters of random rows in host memory, packed.

Owns: the bytes, which adapters of the same ranks share, as S-LoRA's dummy adapters do.
Does not know: the engine that copies them to its device.
"""

import torch
from torch import Tensor

from benchmarks.gpu.lora_pool import Ranks
from motet.core.shape import Module
from motet.memory.device_pool import PackedAdapter, pack_adapter
from motet.memory.geometry import PageGeometry, Run


class DummyAdapters:
    """Packs an adapter once for all that have its ranks.

    Args:
        geometry, dtype: those of the pool that they are for.
        device: of that pool; it also makes the random numbers.
    """

    def __init__(
        self, geometry: PageGeometry, dtype: torch.dtype, device: torch.device, seed: int
    ) -> None:
        self._geometry = geometry
        self._dtype = dtype
        self._generator = torch.Generator(device).manual_seed(seed)
        self._packed: dict[tuple[tuple[tuple[int, Module], int], ...], PackedAdapter] = {}

    def pack(self, ranks: Ranks) -> PackedAdapter:
        """The one packed adapter of these ranks."""
        key = tuple(sorted(ranks.items()))
        if key not in self._packed:
            self._packed[key] = pack_adapter(
                self._geometry,
                self._dtype,
                ranks,
                self._random_rows,
                pinned=self._generator.device.type == "cuda",
            )
        return self._packed[key]

    def _random_rows(self, run: Run) -> Tensor:
        """Elements of about 1 / sqrt(row_elems), so that a chain of layers stays finite."""
        size = (run.num_rows, run.row_elems)
        rows = torch.randn(size, generator=self._generator, device=self._generator.device)
        scaled: Tensor = rows * run.row_elems**-0.5
        return scaled.to(self._dtype).cpu()
