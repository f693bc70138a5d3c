"""First come, first served.

Owns: nothing but the order of arrival.
"""

from collections import OrderedDict
from collections.abc import Collection
from itertools import islice

from motet.scheduler.policy import Policy, QueuedRequest


class Fcfs(Policy):
    """By arrival."""

    def __init__(self) -> None:
        # Removing from the middle and looking at the first both take constant time.
        self._waiting: OrderedDict[QueuedRequest, None] = OrderedDict()

    def add(self, request: QueuedRequest) -> None:
        self._waiting[request] = None

    def remove(self, request: QueuedRequest) -> None:
        del self._waiting[request]

    def next(self, in_play: Collection[str]) -> QueuedRequest | None:
        return next(iter(self._waiting), None)

    def upcoming(self, count: int) -> list[QueuedRequest]:
        return list(islice(self._waiting, count))
