"""What may be evicted, the least weight first.

Owns: a heap whose entries can be taken back.
Does not know: what the items are, nor how weights come about (`memory/eviction.py`).
"""

import heapq
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT", bound=Hashable)

# Entries that were taken back stay in the heap until they surface; beyond this many more than
# the others the heap is built anew.
_MAX_STALE_SHARE = 1
_SMALL_HEAP = 64


class Candidates(Generic[ItemT]):
    """Items with a weight each. One that is offered again has its new weight."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ItemT]] = []
        self._entries: dict[ItemT, int] = {}  # number of the entry that counts
        self._num_offers = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: ItemT) -> bool:
        return item in self._entries

    def offer(self, item: ItemT, weight: float) -> None:
        """Make an item a candidate, or change its weight. Of equal weights the older goes first."""
        self._num_offers += 1
        self._entries[item] = self._num_offers
        heapq.heappush(self._heap, (weight, self._num_offers, item))
        if len(self._heap) > _SMALL_HEAP + (1 + _MAX_STALE_SHARE) * len(self._entries):
            self._heap = [entry for entry in self._heap if self._counts(entry)]
            heapq.heapify(self._heap)

    def withdraw(self, item: ItemT) -> None:
        """Make an item no candidate; nothing happens if it is none."""
        self._entries.pop(item, None)

    def lowest(self, excluding: Collection[ItemT] = ()) -> tuple[float, ItemT] | None:
        """Weight and item of the least weight, which stays a candidate; None without any."""
        passed_over = []
        found = None
        while self._heap:
            entry = self._heap[0]
            if not self._counts(entry):
                heapq.heappop(self._heap)
            elif entry[2] in excluding:
                passed_over.append(heapq.heappop(self._heap))
            else:
                found = (entry[0], entry[2])
                break
        for entry in passed_over:
            heapq.heappush(self._heap, entry)
        return found

    def _counts(self, entry: tuple[float, int, ItemT]) -> bool:
        return self._entries.get(entry[2]) == entry[1]
