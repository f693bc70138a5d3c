"""Priorities: a line for each, and the policy within.

Owns: that lower numbers come first, and which priorities have anyone.
Does not know: the policy.
"""

from bisect import insort
from collections.abc import Collection
from dataclasses import dataclass

from motet.scheduler.policy import Policy, PolicyFactory, QueuedRequest, Refusal


@dataclass(slots=True)
class _Lane:
    """One priority: its policy, and how many requests are between `add` and their end."""

    policy: Policy
    num_live: int = 0


class PriorityLanes:
    """`policy.Policy` over all priorities. A priority costs nothing once nobody of it is left."""

    def __init__(self, make_lane: PolicyFactory) -> None:
        self._make_lane = make_lane
        self._lanes: dict[int, _Lane] = {}
        self._priorities: list[int] = []  # those of the lanes, ascending

    def add(self, request: QueuedRequest) -> None:
        """See `Policy.add`; so for all methods of this name."""
        lane = self._lanes.get(request.priority)
        if lane is None:
            lane = self._lanes[request.priority] = _Lane(self._make_lane())
            insort(self._priorities, request.priority)
        lane.num_live += 1
        lane.policy.add(request)

    def remove(self, request: QueuedRequest) -> None:
        self._lanes[request.priority].policy.remove(request)
        self._leave(request)

    def next(self, in_play: Collection[str]) -> QueuedRequest | None:
        for priority in self._priorities:
            if (request := self._lanes[priority].policy.next(in_play)) is not None:
                return request
        return None

    def upcoming(self, count: int) -> list[QueuedRequest]:
        requests: list[QueuedRequest] = []
        for priority in self._priorities:
            if len(requests) >= count:
                break
            requests += self._lanes[priority].policy.upcoming(count - len(requests))
        return requests

    def call(self, request: QueuedRequest) -> None:
        self._lanes[request.priority].policy.call(request)

    def is_owed(self, request: QueuedRequest) -> bool:
        return self._lanes[request.priority].policy.is_owed(request)

    def has_excess(self, request: QueuedRequest) -> bool:
        return self._lanes[request.priority].policy.has_excess(request)

    def refusals(self, now_s: float) -> list[Refusal]:
        lanes = self._lanes.values()
        return [refusal for lane in lanes for refusal in lane.policy.refusals(now_s)]

    def next_refusal_s(self) -> float | None:
        times = (lane.policy.next_refusal_s() for lane in self._lanes.values())
        return min((each for each in times if each is not None), default=None)

    def start(self, request: QueuedRequest, now_s: float) -> None:
        self._lanes[request.priority].policy.start(request, now_s)

    def count_output(self, request: QueuedRequest, num_tokens: int, now_s: float) -> None:
        self._lanes[request.priority].policy.count_output(request, num_tokens, now_s)

    def end(self, request: QueuedRequest) -> None:
        self._lanes[request.priority].policy.end(request)
        self._leave(request)

    def _leave(self, request: QueuedRequest) -> None:
        lane = self._lanes[request.priority]
        lane.num_live -= 1
        if lane.num_live == 0:
            del self._lanes[request.priority]
            self._priorities.remove(request.priority)
