"""How big a page is, and how rank rows are laid into pages.

Owns: the arithmetic of the page layout (DESIGN: "the unified page pool").
Does not know: tensors, nor which pages are free. No torch here: the scheduler imports it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
class AdapterLayout:
    """Where each rank row of one adapter lies, relative to the pages that it will be given.

    Attributes:
        num_pages: pages that the adapter takes.
        max_rank: largest rank of any layer and module.
        runs: the matrices in the order in which their rows are numbered.
        run_first_rows: int64 [num_runs]. Number of each run's first row.
        row_layers: int64 [num_rows]. Layer of each row.
        row_pages: int64 [num_rows]. Which of the adapter's pages holds it, from 0.
        row_starts: int64 [num_rows]. First element within that page.
        run_starts: int64 [num_layers, num_modules, 2]. First row of A (0) and of B (1).
        ranks: int64 [num_layers, num_modules].
    """

    num_pages: int
    max_rank: int
    runs: Sequence[Run]
    run_first_rows: IntArray
    row_layers: IntArray
    row_pages: IntArray
    row_starts: IntArray
    run_starts: IntArray
    ranks: IntArray

    @property
    def num_rows(self) -> int:
        return len(self.row_layers)


def lay_out_adapter(
    geometry: PageGeometry, ranks: Mapping[tuple[int, Module], int]
) -> AdapterLayout:
    """Pack the rows of an adapter into as few pages as next-fit needs.

    Within a layer the longest rows come first, so that what is left at a page's end is short.

    Args:
        geometry: the pool's page sizes.
        ranks: true rank of each touched (layer, module).

    Returns:
        The layout; `num_pages` is what the fullest layer needs, since page ids are shared by all
        layers.
    """
    shape = geometry.shape
    runs: list[Run] = []
    pages: list[IntArray] = []
    starts: list[IntArray] = []
    first_rows: list[int] = []
    run_starts = np.zeros((shape.num_layers, NUM_MODULES, 2), dtype=np.int64)
    rank_table = np.zeros((shape.num_layers, NUM_MODULES), dtype=np.int64)
    num_rows = 0
    num_pages = 0
    for layer in range(shape.num_layers):
        page, used = 0, 0
        layer_runs = _runs_of_layer(shape, layer, ranks)
        for run in layer_runs:
            run_pages, run_elems, page, used = _place_run(geometry.page_elems, run, page, used)
            runs.append(run)
            pages.append(run_pages)
            starts.append(run_elems)
            first_rows.append(num_rows)
            run_starts[layer, run.module, int(run.is_b)] = num_rows
            rank_table[layer, run.module] = run.num_rows
            num_rows += run.num_rows
        if layer_runs:
            num_pages = max(num_pages, page + 1)
    lengths = [run.num_rows for run in runs]
    return AdapterLayout(
        num_pages=num_pages,
        max_rank=max(ranks.values(), default=0),
        runs=runs,
        run_first_rows=np.array(first_rows, dtype=np.int64),
        row_layers=np.repeat(np.array([run.layer for run in runs], dtype=np.int64), lengths),
        row_pages=np.concatenate(pages) if pages else np.zeros(0, dtype=np.int64),
        row_starts=np.concatenate(starts) if starts else np.zeros(0, dtype=np.int64),
        run_starts=run_starts,
        ranks=rank_table,
    )


def _runs_of_layer(
    shape: ModelShape, layer: int, ranks: Mapping[tuple[int, Module], int]
) -> list[Run]:
    runs = []
    for module in MODULES:
        rank = ranks.get((layer, module), 0)
        if rank > 0:
            runs.append(Run(layer, module, False, rank, shape.in_features(module)))
            runs.append(Run(layer, module, True, rank, shape.out_features(module)))
    return sorted(runs, key=lambda run: -run.row_elems)


def _place_run(
    page_elems: int, run: Run, page: int, used: int
) -> tuple[IntArray, IntArray, int, int]:
    """Pages and first elements of a run's rows, and the page and fill after it."""
    per_page = page_elems // run.row_elems
    in_first = min((page_elems - used) // run.row_elems, run.num_rows)
    index = np.arange(run.num_rows, dtype=np.int64)
    beyond = index - in_first
    is_first = index < in_first
    pages = np.where(is_first, page, page + 1 + beyond // per_page)
    elems = np.where(is_first, used + index * run.row_elems, beyond % per_page * run.row_elems)
    return pages, elems, int(pages[-1]), int(elems[-1]) + run.row_elems
