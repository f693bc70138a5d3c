"""Reads and copies of adapters that take their time, on threads that do one at a time.

Owns: when each ends. It stands for `engine/loader.py`.
Does not know: which adapters should come, nor what they are worth.
"""

import heapq
from dataclasses import dataclass
from typing import Literal, NamedTuple


class Transfer(NamedTuple):
    """One that has ended. Transfers sort by their end.

    Attributes:
        ended_s: when.
        number: of the order in which they began.
        kind: from disk to host memory, or from there to the device.
        digest: of the adapter.
        took_s: without the wait for a thread.
    """

    ended_s: float
    number: int
    kind: Literal["read", "copy"]
    digest: str
    took_s: float


@dataclass
class _Threads:
    """Attributes: when each thread is done with what it has been given; the earliest first."""

    free_at_s: list[float]

    def end_s(self, now_s: float, took_s: float) -> float:
        """Give a transfer to the thread that is free first; when it ends."""
        end_s = max(now_s, self.free_at_s[0]) + took_s
        heapq.heapreplace(self.free_at_s, end_s)
        return end_s


class Transfers:
    """All transfers under way. Copies have a thread of their own."""

    def __init__(self, num_readers: int) -> None:
        self._threads = {"read": _Threads([0.0] * num_readers), "copy": _Threads([0.0])}
        self._under_way: list[Transfer] = []
        self._num_begun = 0

    def begin(
        self, kind: Literal["read", "copy"], digest: str, now_s: float, took_s: float
    ) -> None:
        """Start one that takes this long once a thread is free."""
        end_s = self._threads[kind].end_s(now_s, took_s)
        heapq.heappush(self._under_way, Transfer(end_s, self._num_begun, kind, digest, took_s))
        self._num_begun += 1

    def take_ended(self, now_s: float) -> list[Transfer]:
        """Those that have ended by now, in that order, each once."""
        ended = []
        while self._under_way and self._under_way[0].ended_s <= now_s:
            ended.append(heapq.heappop(self._under_way))
        return ended

    @property
    def next_end_s(self) -> float | None:
        """When the next one ends; None if none is under way."""
        return self._under_way[0].ended_s if self._under_way else None
