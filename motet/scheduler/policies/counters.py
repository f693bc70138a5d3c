"""Counters of what has been served, and what waits sorted by them.

Owns: which counters there are, to what a counter is lifted when its owner comes back, and finding
the least of those that wait.
Does not know: what is counted, and for whom (`fair.py`).

Counts grow with service, so a heap of what waits is kept loosely: an entry's count is that of the
time it was put there, and it is brought up to date when it comes to the top. Only a charge that is
given back makes a count smaller. That is rare, and has the heaps of its group built anew.
"""

import heapq
from collections.abc import Callable, Iterator
from itertools import count as count_up
from typing import Generic, TypeVar

# Counters below this number are not looked through for those that can be forgotten.
_MIN_LOOKED_THROUGH = 64


class Counter:
    """What one has been served.

    Attributes:
        count: weighted tokens over the weight of the share.
        num_live: requests that wait or run under it.
    """

    __slots__ = ("count", "num_live")

    def __init__(self, count: float) -> None:
        self.count = count
        self.num_live = 0


K = TypeVar("K")
C = TypeVar("C", bound=Counter)
T = TypeVar("T")


class CounterGroup(Generic[K, C]):
    """Counters of those who share something.

    A counter can be forgotten once its owner has nothing there, and would be lifted above it on
    return anyway. Whoever has no counter starts at the highest count that was ever forgotten, so
    that nobody gains by being forgotten.

    Args:
        make: makes a counter from its count.

    Attributes:
        num_lowered: how often a count was made smaller.
    """

    def __init__(self, make: Callable[[float], C]) -> None:
        self._make = make
        self._counters: dict[K, C] = {}
        self._called_at = 0.0  # the highest count at which anyone was called
        self._last: C | None = None  # who was called last
        self._forgotten = 0.0
        self._look_through_at = _MIN_LOOKED_THROUGH
        self.num_lowered = 0

    def __len__(self) -> int:
        return len(self._counters)

    def hold(self, key: K) -> C:
        """The counter of a request that comes, until it is released."""
        counter = self._counters.get(key)
        if counter is None:
            if len(self._counters) >= self._look_through_at:
                self._forget_some()
            counter = self._counters[key] = self._make(self._forgotten)
        counter.num_live += 1
        return counter

    def release(self, counter: C) -> None:
        """A request of it is over."""
        counter.num_live -= 1

    def lift(self, counter: C, least: float | None) -> None:
        """Its owner comes back: what it was not served while it was away is lost.

        Args:
            counter: of one that had nothing waiting.
            least: the least count of those that wait; None if nobody does.
        """
        counter.count = max(counter.count, self._level if least is None else least)

    def call(self, counter: C) -> None:
        """The turn of one of its requests has come. It is charged afterwards."""
        self._called_at = max(self._called_at, counter.count)
        self._last = counter

    def lower(self, counter: C, amount: float) -> None:
        """Give back what was charged."""
        counter.count -= amount
        self.num_lowered += 1

    @property
    def _level(self) -> float:
        """What those who wait would have, if there were any."""
        return self._called_at if self._last is None else max(self._called_at, self._last.count)

    def _forget_some(self) -> None:
        """Linear in the counters there are, but only after they have doubled."""
        counters = self._counters
        live = [counter.count for counter in counters.values() if counter.num_live]
        floor = min([self._level, *live])
        for key, counter in list(counters.items()):
            if not counter.num_live and counter.count <= floor:
                self._forgotten = max(self._forgotten, counter.count)
                del counters[key]
        self._look_through_at = max(_MIN_LOOKED_THROUGH, 2 * len(counters))


class _Entry(Generic[T]):
    __slots__ = ("counter", "is_gone", "item")

    def __init__(self, counter: Counter, item: T) -> None:
        self.counter = counter
        self.item = item
        self.is_gone = False


class LeastFirst(Generic[K, C, T]):
    """What waits, by the counters of a group; of equal counts, what came first.

    Args:
        group: has the counters.
    """

    def __init__(self, group: CounterGroup[K, C]) -> None:
        self._group = group
        self._num_lowered = group.num_lowered
        self._entries: dict[K, _Entry[T]] = {}
        # One for each entry, and some of those that are gone. The number is the order of coming.
        self._heap: list[tuple[float, int, _Entry[T]]] = []
        self._numbers = count_up()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> T | None:
        """What waits under this name; None if nothing does."""
        entry = self._entries.get(key)
        return None if entry is None else entry.item

    def add(self, key: K, counter: C, item: T) -> None:
        """This waits from now on. If nothing did under this name, the counter is lifted."""
        top = self._top()
        self._group.lift(counter, None if top is None else top.counter.count)
        entry = self._entries[key] = _Entry(counter, item)
        heapq.heappush(self._heap, (counter.count, next(self._numbers), entry))

    def remove(self, key: K) -> None:
        """Nothing waits there any more."""
        self._entries.pop(key).is_gone = True
        if len(self._heap) > 2 * len(self._entries) + _MIN_LOOKED_THROUGH:
            self._rebuild()

    def least(self) -> T | None:
        """What has the least count; None if nothing waits."""
        top = self._top()
        return None if top is None else top.item

    def __iter__(self) -> Iterator[T]:
        """From the least count on; but for the first, as they were when they were last seen.

        The first k of n cost k log k: the heap is followed from its root.
        """
        if self._top() is None:
            return
        heap = self._heap
        frontier = [(heap[0], 0)]
        while frontier:
            (_, _, entry), index = heapq.heappop(frontier)
            if not entry.is_gone:
                yield entry.item
            for child in range(2 * index + 1, min(2 * index + 3, len(heap))):
                heapq.heappush(frontier, (heap[child], child))

    def _top(self) -> _Entry[T] | None:
        if self._num_lowered != self._group.num_lowered:
            self._rebuild()
        heap = self._heap
        while heap:
            count, number, entry = heap[0]
            if entry.is_gone:
                heapq.heappop(heap)
            elif entry.counter.count > count:
                heapq.heapreplace(heap, (entry.counter.count, number, entry))
            else:
                return entry
        return None

    def _rebuild(self) -> None:
        self._num_lowered = self._group.num_lowered
        self._heap = [(e.counter.count, n, e) for _, n, e in self._heap if not e.is_gone]
        heapq.heapify(self._heap)
