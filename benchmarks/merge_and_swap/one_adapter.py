"""One adapter at a time, as a server has to that merges adapters into the weights.

Owns: whose turn it is, and for how long. It is a policy for comparisons, not for `--policy`.

An adapter has its turn until the oldest request of the others has been overtaken by a number of
requests. Then nobody is called until all who run are done, and the oldest request's adapter is
next. Longer turns mean fewer merges and fuller batches, and longer waits for the others.
"""

from collections import OrderedDict
from collections.abc import Collection

from motet.scheduler.policy import Policy, QueuedRequest

MAX_OVERTAKING = 32

_Adapters = tuple[str, ...]


class OneAdapter(Policy):
    """Batches in which all requests use the same adapters, or none. For one priority only."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[QueuedRequest, None] = OrderedDict()
        self._of: dict[_Adapters, OrderedDict[QueuedRequest, None]] = {}
        self._current: _Adapters = ()
        self._num_live = 0  # called, and not over
        self._num_overtaking = 0  # called in this turn while an older request of others waited

    def add(self, request: QueuedRequest) -> None:
        self._waiting[request] = None
        self._of.setdefault(request.adapters, OrderedDict())[request] = None

    def remove(self, request: QueuedRequest) -> None:
        del self._waiting[request]
        same = self._of[request.adapters]
        del same[request]
        if not same:
            del self._of[request.adapters]

    def next(self, in_play: Collection[str]) -> QueuedRequest | None:
        oldest = next(iter(self._waiting), None)
        if oldest is None or self._num_live == 0 or oldest.adapters == self._current:
            return oldest
        if self._num_overtaking >= MAX_OVERTAKING or self._current not in self._of:
            return None
        return next(iter(self._of[self._current]))

    def call(self, request: QueuedRequest) -> None:
        if request.adapters != self._current:
            self._current, self._num_overtaking = request.adapters, 0
        if next(iter(self._waiting)) is request:
            self._num_overtaking = 0
        else:
            self._num_overtaking += 1
        self._num_live += 1
        self.remove(request)

    def upcoming(self, count: int) -> list[QueuedRequest]:
        oldest = next(iter(self._waiting), None)
        return [] if oldest is None else [oldest]

    def end(self, request: QueuedRequest) -> None:
        self._num_live -= 1
