"""The one free list: which page belongs to whom.

Owns: the assignment of page ids to owners, and its integrity check.
Does not know: what is in a page, nor when it should be given up.
"""

from collections.abc import Iterable

from motet.core.errors import MotetError


class PoolCorruptionError(MotetError):
    """A page was freed twice, freed by another owner, or lost."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="pool_corruption")


class PagePool:
    """Page ids 0 to num_pages - 1, each free or owned by one owner.

    An owner is any string: "kv:<request id>" or "adapter:<digest>" as used by the callers.
    """

    def __init__(self, num_pages: int) -> None:
        self._free = list(range(num_pages - 1, -1, -1))
        self._owners: list[str | None] = [None] * num_pages

    @property
    def num_pages(self) -> int:
        return len(self._owners)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, num_pages: int, owner: str) -> list[int] | None:
        """Take pages for an owner: all of them, or None and nothing taken."""
        if num_pages > len(self._free):
            return None
        pages = [self._free.pop() for _ in range(num_pages)]
        for page in pages:
            self._owners[page] = owner
        return pages

    def free(self, pages: Iterable[int], owner: str) -> None:
        """Give pages back.

        Raises:
            PoolCorruptionError: a page is not this owner's.
        """
        for page in pages:
            if self._owners[page] != owner:
                raise PoolCorruptionError(
                    f"page {page} was freed by {owner!r} but belongs to {self._owners[page]!r}"
                )
            self._owners[page] = None
            self._free.append(page)

    def num_owned(self, kind: str) -> int:
        """Pages of all owners whose name starts with `kind` and a colon."""
        prefix = f"{kind}:"
        return sum(1 for owner in self._owners if owner is not None and owner.startswith(prefix))

    def check(self) -> None:
        """Verify that each page is either free, once, or owned.

        Raises:
            PoolCorruptionError: a page is lost, doubly free, or free and owned at once.
        """
        free = set(self._free)
        if len(free) != len(self._free):
            raise PoolCorruptionError("a page is on the free list twice")
        for page, owner in enumerate(self._owners):
            if (owner is None) != (page in free):
                raise PoolCorruptionError(
                    f"page {page} has owner {owner!r} and free={page in free}"
                )
