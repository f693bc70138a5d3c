"""The one free list: which page belongs to whom.

Owns: the assignment of page ids to owners, and its integrity check.
Does not know: what is in a page, nor when it should be given up.
"""

from collections import Counter
from collections.abc import Iterable

from motet.core.errors import MotetError

KV = "kv"
PREFIX = "prefix"
ADAPTER = "adapter"


class PoolCorruptionError(MotetError):
    """A page was freed twice, freed by another owner, or lost."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="pool_corruption")


class PagePool:
    """Page ids 0 to num_pages - 1, each free or owned by one owner.

    An owner is any string; what stands before its first colon is its kind: "kv:<request id>",
    "prefix:" or "adapter:<digest>" as used by the callers.

    Args:
        num_pages: pages of the pool.
        num_adapter_pages: pages that adapters may own at most, all others being for the rest
            alone: a static partition, to measure what one pool is worth. None is one pool.
    """

    def __init__(self, num_pages: int, num_adapter_pages: int | None = None) -> None:
        self._free = list(range(num_pages - 1, -1, -1))
        self._owners: list[str | None] = [None] * num_pages
        self._num_owned: Counter[str] = Counter()  # by kind
        self.num_adapter_pages = num_adapter_pages

    @property
    def num_pages(self) -> int:
        return len(self._owners)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def is_partitioned(self) -> bool:
        return self.num_adapter_pages is not None

    def capacity(self, kind: str) -> int:
        """Pages that owners of this kind, and those that share with it, may have together."""
        if self.num_adapter_pages is None:
            return self.num_pages
        is_adapter = kind == ADAPTER
        return self.num_adapter_pages if is_adapter else self.num_pages - self.num_adapter_pages

    def num_available(self, kind: str) -> int:
        """Free pages that an owner of this kind may take."""
        if self.num_adapter_pages is None:
            return len(self._free)
        num_owned = self._num_owned[ADAPTER]
        if kind != ADAPTER:
            num_owned = self._num_owned.total() - num_owned
        return self.capacity(kind) - num_owned

    def allocate(self, num_pages: int, owner: str) -> list[int] | None:
        """Take pages for an owner: all of them, or None and nothing taken."""
        kind = _kind(owner)
        if num_pages > self.num_available(kind):
            return None
        pages = [self._free.pop() for _ in range(num_pages)]
        for page in pages:
            self._owners[page] = owner
        self._num_owned[kind] += num_pages
        return pages

    def free(self, pages: Iterable[int], owner: str) -> None:
        """Give pages back.

        Raises:
            PoolCorruptionError: a page is not this owner's.
        """
        for page in pages:
            self._require_owner(page, owner)
            self._owners[page] = None
            self._free.append(page)
            self._num_owned[_kind(owner)] -= 1

    def hand_over(self, page: int, owner: str, new_owner: str) -> None:
        """Give a page to another owner, content and all. Raises as `free`."""
        self._require_owner(page, owner)
        self._owners[page] = new_owner
        self._num_owned[_kind(owner)] -= 1
        self._num_owned[_kind(new_owner)] += 1

    def owner(self, page: int) -> str | None:
        """Whose a page is; None if it is free."""
        return self._owners[page]

    def num_owned(self, kind: str) -> int:
        """Pages of all owners of a kind."""
        return self._num_owned[kind]

    def check(self) -> None:
        """Verify that each page is either free, once, or owned, and that the counts agree.

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
        counted = Counter(_kind(owner) for owner in self._owners if owner is not None)
        if counted != +self._num_owned:
            raise PoolCorruptionError(f"pages by kind are {counted}, but {self._num_owned} counted")

    def _require_owner(self, page: int, owner: str) -> None:
        if self._owners[page] != owner:
            raise PoolCorruptionError(
                f"page {page} was freed by {owner!r} but belongs to {self._owners[page]!r}"
            )


def _kind(owner: str) -> str:
    return owner.partition(":")[0]
