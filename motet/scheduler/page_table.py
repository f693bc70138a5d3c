"""The pages of all running sequences side by side, as a step reads them.

Owns: one array with a row for each sequence. It changes where a sequence's pages do, which is
seldom, so that no step has to put it together.
Does not know: what the pages are for, nor whose a row is.
"""

import numpy as np
import numpy.typing as npt

PageIds = npt.NDArray[np.int32]

_FIRST_WIDTH = 16


class PageTable:
    """Page ids, int32 [num_rows, as many as the longest row needs].

    Args:
        num_rows: sequences that run at once at most.
    """

    def __init__(self, num_rows: int) -> None:
        self._free_rows = list(range(num_rows - 1, -1, -1))
        self._pages: PageIds = np.zeros((num_rows, _FIRST_WIDTH), np.int32)

    @property
    def num_rows(self) -> int:
        return len(self._pages)

    def take_row(self) -> int:
        """A row that nobody else has."""
        return self._free_rows.pop()

    def give_back(self, row: int) -> None:
        """Have a row be another's."""
        self._free_rows.append(row)

    def write(self, row: int, first: int, pages: list[int]) -> None:
        """Put pages at `first` and after it."""
        end = first + len(pages)
        width = self._pages.shape[1]
        if end > width:
            room = max(end, 2 * width) - width
            self._pages = np.pad(self._pages, ((0, 0), (0, room)))
        self._pages[row, first:end] = pages

    def pages(self, row: int, num_pages: int) -> list[int]:
        """The first pages of a row."""
        return list(map(int, self._pages[row, :num_pages]))

    def gather(self, rows: npt.NDArray[np.int64], num_pages: int) -> PageIds:
        """The first pages of some rows, int32 [len(rows), num_pages], as a copy.

        Entries past a row's own pages are page ids that mean nothing.
        """
        return self._pages[:, :num_pages].take(rows, axis=0)
