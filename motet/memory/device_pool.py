"""The pool's tensor and the tables that kernels read, and the packed host copy of an adapter.

Owns: the only device memory that holds KV or adapter weights.
Does not know: who is given which page (`page_pool.py`, `residency.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motet.core.pacing import Pace, at_once
from motet.core.shape import NUM_MODULES, Module
from motet.kernels.host_memory import zeros_on_huge_pages
from motet.kernels.types import LoraTables
from motet.memory.geometry import AdapterLayout, PageGeometry, Run, lay_out_adapter
from motet.memory.residency import Placement

_INTEGERS = {2: np.int16, 4: np.int32, 8: np.int64}  # by width [bytes]


@dataclass(frozen=True)
class PackedAdapter:
    """An adapter in page layout, in host memory: one copy brings it in.

    Attributes:
        layout: where its rows lie.
        pages: [num_layers, layout.num_pages, page_elems] in the pool's dtype; pinned for a GPU.
    """

    layout: AdapterLayout
    pages: Tensor


def pack_adapter(
    geometry: PageGeometry,
    dtype: torch.dtype,
    ranks: Mapping[tuple[int, Module], int],
    rows_of: Callable[[Run], Tensor],
    *,
    pinned: bool,
    has_b: bool = True,
    pace: Pace = at_once,
) -> PackedAdapter:
    """Bring an adapter into page layout.

    Args:
        geometry: the pool's page sizes.
        dtype: the pool's dtype.
        ranks: true rank of each touched (layer, module).
        rows_of: the rows of one matrix, [num_rows, row_elems]: A, or B transposed with the scaling
            folded in. Each is asked for once.
        pinned: allocate page-locked memory, for an asynchronous copy to a GPU.
        has_b: see `lay_out_adapter`.
        pace: called between pieces of work.

    Returns:
        The packed adapter; unused elements are zero.
    """
    layout = lay_out_adapter(geometry, ranks, has_b=has_b)
    num_layers = geometry.shape.num_layers
    pages = _zeros((num_layers, layout.num_pages, geometry.page_elems), dtype, pinned=pinned)
    target = _bits(pages)
    for run, stretches in zip(layout.runs, layout.stretches, strict=True):
        rows = _bits(rows_of(run).to(dtype))
        first_row = 0
        for each in stretches:
            end = each.start + each.num_rows * run.row_elems
            stretch = target[run.layer, each.page, each.start : end]
            stretch.reshape(-1, run.row_elems)[:] = rows[first_row : first_row + each.num_rows]
            first_row += each.num_rows
        pace()
    return PackedAdapter(layout, pages)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, *, pinned: bool) -> Tensor:
    if pinned:
        return torch.zeros(shape, dtype=dtype, pin_memory=True)
    # torch would fill it with a team of threads: see `_bits`.
    return torch.from_numpy(np.zeros(shape, _INTEGERS[dtype.itemsize])).view(dtype)


def _bits(tensor: Tensor) -> np.ndarray:
    """A CPU tensor as an array of integers of its width, sharing memory.

    Loader threads copy with NumPy, on one core: torch would start a team of threads for each of
    them, which fight with the step's for the cores.
    """
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]).numpy()


class DevicePool:
    """One tensor for KV and adapter weights, and the tables over it. Shapes never change.

    Attributes:
        data: [num_layers, num_pages, page_elems].
        tables: the LoRA tables. There is a slot for each page, since an adapter takes at least
            one: so the number of adapters on the device has no limit but the pool. The last slot
            is beside these.
        empty_slot: the last slot, which no adapter is given: its ranks stay 0. For tokens of the
            base model where every token has to have a slot.
        max_ranks: int64 [num_slots]. Largest rank of the adapter in each slot, in host memory.
    """

    def __init__(
        self, geometry: PageGeometry, num_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.geometry = geometry
        shape = (geometry.shape.num_layers, num_pages, geometry.page_elems)
        if device.type == "cpu":
            self.data = zeros_on_huge_pages(shape, dtype)
        else:
            self.data = torch.empty(shape, dtype=dtype, device=device)
        self.empty_slot = num_pages
        self.max_ranks = np.zeros(num_pages + 1, np.int64)
        table_shape = (num_pages + 1, geometry.shape.num_layers, NUM_MODULES)
        self.tables = LoraTables(
            row_offsets=torch.zeros(
                row_capacity(geometry, num_pages), dtype=torch.int64, device=device
            ),
            run_starts=torch.zeros(*table_shape, 2, dtype=torch.int32, device=device),
            ranks=torch.zeros(table_shape, dtype=torch.int32, device=device),
        )

    def copy_in(self, packed: PackedAdapter, placement: Placement, *, pace: Pace = at_once) -> None:
        """Copy a packed adapter to its pages and write its table rows.

        No running batch may use the placement's slot yet. On a GPU the caller chooses the stream.

        Args:
            packed: the adapter.
            placement: where it goes.
            pace: called between pieces of work.
        """
        assert placement.slot != self.empty_slot, "the last slot is for no adapter"
        layout = packed.layout
        self.max_ranks[placement.slot] = layout.max_rank
        page_ids = np.array(placement.pages, dtype=np.int64)
        num_pages, page_elems = self.data.shape[1:]
        pages = layout.row_layers * num_pages + page_ids[layout.row_pages]
        offsets = pages * page_elems + layout.row_starts
        run_starts = (layout.run_starts + placement.first_row).astype(np.int32)
        rows = slice(placement.first_row, placement.first_row + placement.num_rows)
        self._copy_pages(packed.pages, page_ids, pace)
        _assign(self.tables.row_offsets[rows], offsets)
        _assign(self.tables.run_starts[placement.slot], run_starts)
        _assign(self.tables.ranks[placement.slot], layout.ranks.astype(np.int32))

    def _copy_pages(self, pages: Tensor, page_ids: np.ndarray, pace: Pace) -> None:
        if self.data.device.type == "cpu":
            for target, source in zip(_bits(self.data), _bits(pages), strict=True):
                target[page_ids] = source
                pace()
        else:
            index = torch.from_numpy(page_ids).to(self.data.device)
            self.data.index_copy_(1, index, pages.to(self.data.device, non_blocking=True))


def _assign(target: Tensor, values: np.ndarray) -> None:
    if target.device.type == "cpu":
        target.numpy()[...] = values
    else:
        target.copy_(torch.from_numpy(values), non_blocking=True)


def row_capacity(geometry: PageGeometry, num_pages: int) -> int:
    """Entries of the row-offset table: as many rows as the pool can hold."""
    return geometry.shape.num_layers * num_pages * geometry.max_rows_per_page


def num_pages_in(geometry: PageGeometry, pool_bytes: int, dtype: torch.dtype) -> int:
    """How many pages, with their share of the tables, fit in a memory budget [bytes]."""
    num_layers = geometry.shape.num_layers
    slot_bytes = 4 * 3 * num_layers * NUM_MODULES
    table_bytes = 8 * num_layers * geometry.max_rows_per_page + slot_bytes
    num_bytes = max(0, pool_bytes - slot_bytes)  # there is one slot more than pages
    return num_bytes // (geometry.page_bytes(dtype.itemsize) + table_bytes)
