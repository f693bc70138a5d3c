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
from motet.scheduler.sequence import Sequence

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
        if request is None or (called is not None and called.place[0] <= request.priority):
            return called
        return self._call(request)

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
        self._policy.call(request)
        seq.place = (request.priority, self._num_called)
        self._num_called += 1
        self._in_play.update(seq.adapters)
        insort(self._called, seq, key=_place)
        return seq
