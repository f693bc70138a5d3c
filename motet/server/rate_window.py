"""How much was used within the last minute.

Owns: the arithmetic of one limit.
Does not know: what is counted, nor whose it is.

A sliding window rather than a bucket of tokens: a bucket of a minute's worth gives out twice
that in the minute after a pause, and "a minute" in a limit is taken at its word here. Slots of a
second keep the window's size the same whatever is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

WINDOW_S = 60


class RateWindow:
    """Amounts charged in any 60 seconds, rounded up to whole seconds.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slots: dict[int, int] = {}  # second -> amount, in order of time
        self._used = 0

    @property
    def used(self) -> int:
        self._forget_old()
        return self._used

    def charge(self, amount: int) -> int:
        """Count an amount now. Returns the slot that it is in."""
        self._forget_old()
        slot = math.floor(self._clock())
        self._slots[slot] = self._slots.get(slot, 0) + amount
        self._used += amount
        return slot

    def refund(self, slot: int, amount: int) -> None:
        """Take back some of what was charged in a slot; nothing, if that is long past."""
        self._forget_old()
        if slot in self._slots:
            self._slots[slot] -= amount
            self._used -= amount

    def wait_s(self, amount: int, limit: int) -> float | None:
        """Seconds until so much more fits under a limit: 0 is now, None is never."""
        if amount > limit:
            return None
        excess = self.used + amount - limit
        if excess <= 0:
            return 0.0
        for slot, charged in self._slots.items():
            excess -= charged
            if excess <= 0:
                return self._end_of(slot)
        raise AssertionError("an empty window has room for any amount under its limit")

    def reset_s(self) -> float:
        """Seconds until nothing counts any more."""
        self._forget_old()
        return max((self._end_of(slot) for slot in self._slots), default=0.0)

    def _end_of(self, slot: int) -> float:
        return slot + 1 + WINDOW_S - self._clock()

    def _forget_old(self) -> None:
        # A slot holds charges until its end; it counts until that is a whole window ago.
        oldest = math.floor(self._clock()) - WINDOW_S
        for slot in list(self._slots):
            if slot >= oldest:
                break
            self._used -= self._slots.pop(slot)
