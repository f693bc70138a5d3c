"""The line of sequences that wait: who has been called keeps a place, the others are the policy's.

Owns: places, and which adapters are in play.
Does not know: pages, nor the order in which a policy calls.
"""

import heapq
from bisect import insort
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice, takewhile
from operator import attrgetter

from motet.scheduler.lanes import PriorityLanes
from motet.scheduler.policy import PolicyFactory, QueuedRequest, Refusal
from motet.scheduler.sequence import NOT_OWED, OWED, Sequence

_place = attrgetter("place")


class WaitingLine:
    """Sequences between their arrival and their first run, and those that were preempted.

    Args:
        make_lane: makes the policy of a priority.
    """

    def __init__(self, make_lane: PolicyFactory) -> None:
        self._policy = PriorityLanes(make_lane)
        self._uncalled: dict[QueuedRequest, Sequence] = {}
        self._called: list[Sequence] = []  # by place; only those that wait
        self._num_called = 0
        self._in_play: Counter[str] = Counter()  # adapters of those between call and end

    def __len__(self) -> int:
        return len(self._called) + len(self._uncalled)

    def __iter__(self) -> Iterator[Sequence]:
        return chain(self._called, self._uncalled.values())

    def add(self, seq: Sequence) -> None:
        """A new sequence waits."""
        self._uncalled[seq.queued] = seq
        self._policy.add(seq.queued)

    def turn(self, index: int) -> Sequence | None:
        """The sequence at this place in line, which is called if it was not; None at the end.

        Those before it have to be asked for first.
        """
        called = self._called[index] if index < len(self._called) else None
        request = self._policy.next(self._in_play)
        if request is None or (called is not None and called.place[:2] <= self._rank(request)):
            return called
        return self._call(request)

    def promote(self) -> None:
        """Let the first of those called that were not owed their turn have it if they are by now.

        It may have been sent back, and those of others that are owed theirs would come before it
        for as long as they keep coming.
        """
        for index, seq in enumerate(self._called):
            if not seq.is_owed:
                if self._policy.is_owed(seq.queued):
                    del self._called[index]
                    priority, _, number = seq.place
                    seq.place = (priority, OWED, number)
                    insort(self._called, seq, key=_place)
                return

    def owed(self) -> Sequence | None:
        """The first in line, if it is owed its turn; nobody is called."""
        first = self._called[0] if self._called else None
        request = self._policy.next(self._in_play)
        if request is not None and (first is None or self._rank(request) < first.place[:2]):
            return self._uncalled[request] if self._policy.is_owed(request) else None
        return first if first is not None and first.is_owed else None

    def has_excess(self, seq: Sequence) -> bool:
        """Whether a running sequence may be sent back for one that is owed its turn."""
        return not seq.is_owed and self._policy.has_excess(seq.queued)

    def following(self, index: int, count: int) -> Iterator[Sequence]:
        """From this place on, without calling anyone: who is likely to come next."""
        called = islice(self._called, index, index + count)
        upcoming = (self._uncalled[request] for request in self._policy.upcoming(count))
        merged = heapq.merge(called, upcoming, key=lambda seq: seq.queued.priority)
        return islice(merged, count)

    def adapters_ahead(self, seq: Sequence) -> set[str]:
        """Adapters of a called sequence, and of those that wait in places before it."""
        before = takewhile(lambda other: other.place < seq.place, self._called)
        return {*seq.adapters, *(digest for other in before for digest in other.adapters)}

    def start(self, seq: Sequence, now_s: float) -> None:
        """A called sequence runs, for the first time or again."""
        self._called.remove(seq)
        if seq.queue_s is None:
            seq.queue_s = now_s - seq.queued.queued_s
            self._policy.start(seq.queued, now_s)

    def put_back(self, seq: Sequence) -> None:
        """A running sequence waits again, in its place."""
        insort(self._called, seq, key=_place)

    def count_output(self, seq: Sequence, num_tokens: int, now_s: float) -> None:
        """A running sequence has got tokens."""
        self._policy.count_output(seq.queued, num_tokens, now_s)

    def end(self, seq: Sequence) -> None:
        """A running sequence is over."""
        self._policy.end(seq.queued)
        self._in_play.subtract(seq.adapters)
        for digest in seq.adapters:
            if self._in_play[digest] == 0:
                del self._in_play[digest]

    def remove(self, seq: Sequence) -> None:
        """A waiting sequence is over."""
        if self._uncalled.pop(seq.queued, None) is not None:
            self._policy.remove(seq.queued)
        else:
            self._called.remove(seq)
            self.end(seq)

    def refusals(self, now_s: float) -> list[tuple[Sequence, Refusal]]:
        """Sequences that had better not wait; they have not run yet. They are not removed."""
        refusals = self._policy.refusals(now_s)
        if not refusals:
            return []
        called = {seq.queued: seq for seq in self._called}  # few, however many wait
        return [
            (self._uncalled.get(each.request) or called[each.request], each) for each in refusals
        ]

    def next_refusal_s(self) -> float | None:
        """When one may fall due though nothing else happens; None if none will."""
        return self._policy.next_refusal_s()

    def _call(self, request: QueuedRequest) -> Sequence:
        seq = self._uncalled.pop(request)
        seq.place = (*self._rank(request), self._num_called)
        self._policy.call(request)
        self._num_called += 1
        self._in_play.update(seq.adapters)
        insort(self._called, seq, key=_place)
        return seq

    def _rank(self, request: QueuedRequest) -> tuple[int, int]:
        """What its place begins with."""
        return request.priority, OWED if self._policy.is_owed(request) else NOT_OWED
