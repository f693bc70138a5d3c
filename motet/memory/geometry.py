"""How big a page is, and how rank rows are laid into pages.

Owns: the arithmetic of the page layout (DESIGN: "the unified page pool").
Does not know: tensors, nor which pages are free. No torch here: the scheduler imports it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from motet.core.errors import ConfigError
from motet.core.shape import MODULES, NUM_MODULES, ModelShape, Module

SMALLEST_PAGE_SIZE = 16

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PageGeometry:
    """Sizes of one page. A page id means the same page in every layer.

    Attributes:
        shape: the decoder that the pool serves.
        page_size: KV tokens in a page.
    """

    shape: ModelShape
    page_size: int

    def __post_init__(self) -> None:
        if self.page_elems < self.shape.longest_row:
            raise ConfigError(
                f"page_size {self.page_size} gives pages of {self.page_elems} elements, but the "
                f"longest adapter row of this model has {self.shape.longest_row}; use at least "
                f"{smallest_page_size(self.shape)}, or leave the option out",
                param="page_size",
            )

    @property
    def page_elems(self) -> int:
        """Elements of a page in one layer: keys and values of `page_size` tokens."""
        return 2 * self.page_size * self.shape.kv_size

    @property
    def max_rows_per_page(self) -> int:
        """Most rank rows that a page can hold in one layer."""
        return self.page_elems // self.shape.shortest_row

    def page_bytes(self, elem_bytes: int) -> int:
        """Bytes of one page, all layers together."""
        return self.shape.num_layers * self.page_elems * elem_bytes

    def num_kv_pages(self, num_tokens: int) -> int:
        """Pages that hold the KV of this many tokens."""
        return -(-num_tokens // self.page_size)


def smallest_page_size(shape: ModelShape) -> int:
    """The least power of two, from 16 up, whose page holds the longest rank row."""
    page_size = SMALLEST_PAGE_SIZE
    while 2 * page_size * shape.kv_size < shape.longest_row:
        page_size *= 2
    return page_size


@dataclass(frozen=True)
class Run:
    """The rows of one matrix: all of A, or all of B's columns, of one layer and module."""

    layer: int
    module: Module
    is_b: bool
    num_rows: int
    row_elems: int


@dataclass(frozen=True)
class Stretch:
    """Rows of one run that lie side by side in a page: which page, from which element, how many."""

    page: int
    start: int
    num_rows: int


@dataclass(frozen=True)
class AdapterLayout:
    """Where each rank row of one adapter lies, relative to the pages that it will be given.

    Attributes:
        num_pages: pages that the adapter takes; at least one.
        max_rank: largest rank of any layer and module.
        runs: the matrices in the order in which their rows are numbered.
        stretches: for each run, where its rows lie, in order.
        row_layers: int64 [num_rows]. Layer of each row.
        row_pages: int64 [num_rows]. Which of the adapter's pages holds it, from 0.
        row_starts: int64 [num_rows]. First element within that page.
        run_starts: int64 [num_layers, num_modules, 2]. First row of A (0) and of B (1).
        ranks: int64 [num_layers, num_modules].
    """

    num_pages: int
    max_rank: int
    runs: Sequence[Run]
    stretches: Sequence[Sequence[Stretch]]
    row_layers: IntArray
    row_pages: IntArray
    row_starts: IntArray
    run_starts: IntArray
    ranks: IntArray

    @property
    def num_rows(self) -> int:
        return len(self.row_layers)

    @property
    def num_elems(self) -> int:
        """Elements of all rows together."""
        return sum(run.num_rows * run.row_elems for run in self.runs)


def lay_out_adapter(
    geometry: PageGeometry, ranks: Mapping[tuple[int, Module], int], *, has_b: bool = True
) -> AdapterLayout:
    """Pack the rows of an adapter into few pages: first-fit, the longest rows first.

    Adapters of equal ranks share one layout, since it is made once.

    Args:
        geometry: the pool's page sizes.
        ranks: true rank of each touched (layer, module).
        has_b: a router has none: its rows of A are its gates, and there are as many as its ranks.

    Returns:
        The layout; `num_pages` is what the fullest layer needs, since page ids are shared by all
        layers. It is at least one, so that there are slots for all that is on the device.
    """
    return _lay_out(geometry, tuple(sorted(ranks.items())), has_b)


@lru_cache(maxsize=256)
def _lay_out(
    geometry: PageGeometry,
    sorted_ranks: tuple[tuple[tuple[int, Module], int], ...],
    has_b: bool,
) -> AdapterLayout:
    ranks = dict(sorted_ranks)
    shape = geometry.shape
    runs: list[Run] = []
    stretches: list[list[Stretch]] = []
    run_starts = np.zeros((shape.num_layers, NUM_MODULES, 2), dtype=np.int64)
    rank_table = np.zeros((shape.num_layers, NUM_MODULES), dtype=np.int64)
    num_rows = 0
    num_pages = 1
    for layer in range(shape.num_layers):
        room: list[int] = []  # elements that are left in each page
        for run in _runs_of_layer(shape, layer, ranks, has_b):
            runs.append(run)
            stretches.append(_place_run(geometry.page_elems, run, room))
            run_starts[layer, run.module, int(run.is_b)] = num_rows
            rank_table[layer, run.module] = run.num_rows
            num_rows += run.num_rows
        num_pages = max(num_pages, len(room))
    placed = [(run, each) for run, of_run in zip(runs, stretches, strict=True) for each in of_run]
    lengths = [each.num_rows for _, each in placed]
    starts = [each.start + np.arange(each.num_rows) * run.row_elems for run, each in placed]
    return AdapterLayout(
        num_pages=num_pages,
        max_rank=max(ranks.values(), default=0),
        runs=runs,
        stretches=stretches,
        row_layers=np.repeat(np.array([run.layer for run, _ in placed], dtype=np.int64), lengths),
        row_pages=np.repeat(np.array([each.page for _, each in placed], dtype=np.int64), lengths),
        row_starts=np.concatenate(starts) if starts else np.zeros(0, dtype=np.int64),
        run_starts=run_starts,
        ranks=rank_table,
    )


def _runs_of_layer(
    shape: ModelShape, layer: int, ranks: Mapping[tuple[int, Module], int], has_b: bool
) -> list[Run]:
    runs = []
    for module in MODULES:
        rank = ranks.get((layer, module), 0)
        if rank > 0:
            runs.append(Run(layer, module, False, rank, shape.in_features(module)))
        if rank > 0 and has_b:
            runs.append(Run(layer, module, True, rank, shape.out_features(module)))
    return sorted(runs, key=lambda run: -run.row_elems)


def _place_run(page_elems: int, run: Run, room: list[int]) -> list[Stretch]:
    """Where a run's rows go; what they take is taken from `room`, elements left by page."""
    stretches: list[Stretch] = []
    num_left = run.num_rows
    page = 0
    while num_left > 0:
        if page == len(room):
            room.append(page_elems)
        num_here = min(room[page] // run.row_elems, num_left)
        if num_here > 0:
            stretches.append(Stretch(page, page_elems - room[page], num_here))
            room[page] -= num_here * run.row_elems
            num_left -= num_here
        page += 1
    return stretches
