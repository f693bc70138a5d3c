"""Adapters in host memory: packed copies within a budget, the least recently needed going first.

Owns: which adapters have a host copy or are being read, and the budget.
Does not know: disks and threads (`engine/loader.py` reads), nor what a copy is made of.

An adapter's copy is needed when it is read and when it is copied to the device. So one that stays
on the device grows old here and leaves its place to those that come and go: the two tiers rarely
hold the same.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

CopyT = TypeVar("CopyT")


@dataclass
class _Entry(Generic[CopyT]):
    num_pages: int
    copy: CopyT | None = None  # None: it is being read
    is_held: bool = False


class HostTier(Generic[CopyT]):
    """Copies by digest, counted in pages of the pool's layout.

    Attributes:
        num_evictions: since the start.
    """

    def __init__(self, budget_pages: int) -> None:
        self.budget_pages = budget_pages
        self._entries: OrderedDict[str, _Entry[CopyT]] = OrderedDict()  # least recent first
        self.num_pages = 0
        self.num_reading = 0
        self.num_evictions = 0

    @property
    def num_copies(self) -> int:
        return len(self._entries) - self.num_reading

    def has(self, digest: str) -> bool:
        """Whether there is a copy."""
        entry = self._entries.get(digest)
        return entry is not None and entry.copy is not None

    def is_reading(self, digest: str) -> bool:
        """Whether a copy is on its way from disk."""
        entry = self._entries.get(digest)
        return entry is not None and entry.copy is None

    def begin_read(self, digest: str, num_pages: int, protected: Collection[str]) -> bool:
        """Set room aside for a copy; it is being read until `finish_read` or `fail_read`.

        Args:
            digest: an adapter without a copy that is not being read.
            num_pages: what the copy will take.
            protected: adapters whose copies stay.

        Returns:
            False, with nothing changed, if there is no room.
        """
        assert digest not in self._entries, f"adapter {digest} is in host memory already"
        if not self._make_room(num_pages, protected):
            return False
        self._entries[digest] = _Entry(num_pages)
        self.num_pages += num_pages
        self.num_reading += 1
        return True

    def finish_read(self, digest: str, copy: CopyT) -> None:
        """The copy has come."""
        assert self.is_reading(digest), f"adapter {digest} is not being read"
        self._entries[digest].copy = copy
        self._entries.move_to_end(digest)
        self.num_reading -= 1

    def fail_read(self, digest: str) -> None:
        """The copy will not come."""
        assert self.is_reading(digest), f"adapter {digest} is not being read"
        self.num_reading -= 1
        self._remove(digest)

    def offer(
        self, digest: str, num_pages: int, copy: CopyT, protected: Collection[str] = ()
    ) -> None:
        """Keep a copy that came without being asked for, if there is room for it.

        Args:
            digest, num_pages, copy: what came.
            protected: adapters whose copies stay.
        """
        if digest not in self._entries and self._make_room(num_pages, protected):
            self._entries[digest] = _Entry(num_pages, copy)
            self.num_pages += num_pages

    def hold(self, digest: str) -> None:
        """Have the copy stay until `let_go`: it is being copied to the device."""
        assert self.has(digest), f"adapter {digest} is not in host memory"
        self._entries[digest].is_held = True
        self._entries.move_to_end(digest)

    def let_go(self, digest: str) -> None:
        """The copy to the device has ended."""
        self._entries[digest].is_held = False

    def drop(self, digest: str) -> None:
        """Forget a copy, if there is one. It is neither held nor being read."""
        if digest in self._entries:
            assert self._may_go(digest), f"adapter {digest} is still needed in host memory"
            self._remove(digest)

    def copy(self, digest: str) -> CopyT:
        """The copy itself."""
        copy = self._entries[digest].copy
        assert copy is not None, f"adapter {digest} is still being read"
        return copy

    def copies(self) -> dict[str, int]:
        """Pages of each copy."""
        return {digest: e.num_pages for digest, e in self._entries.items() if e.copy is not None}

    def _make_room(self, num_pages: int, protected: Collection[str]) -> bool:
        num_short = self.num_pages + num_pages - self.budget_pages
        leaving: list[str] = []
        for digest, entry in self._entries.items():
            if num_short <= 0:
                break
            if self._may_go(digest) and digest not in protected:
                leaving.append(digest)
                num_short -= entry.num_pages
        if num_short > 0:
            return False
        for digest in leaving:
            self._remove(digest)
        self.num_evictions += len(leaving)
        return True

    def _may_go(self, digest: str) -> bool:
        entry = self._entries[digest]
        return entry.copy is not None and not entry.is_held

    def _remove(self, digest: str) -> None:
        self.num_pages -= self._entries.pop(digest).num_pages
