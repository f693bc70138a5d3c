"""A laboratory for policies: requests in virtual time, without a scheduler and without memory.

Owns: the clock, who is in service and for how long, and what became of everyone. A request is
called when there is a place for it, as the scheduler does it, and holds the others back until it
fits. Everyone in service goes at one speed, however many there are.
Does not know: pages, adapters' ways to the device, preemption. Those are in `virtual_engine.py`.

    lab = Lab(Fcfs, Device(max_running=8))
    played = lab.play([Work(QueuedRequest(request_id="a", queued_s=0.5), num_output_tokens=100)])
"""

import heapq
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from motet.scheduler.lanes import PriorityLanes
from motet.scheduler.policy import PolicyFactory, QueuedRequest


@dataclass(frozen=True, kw_only=True)
class Device:
    """How many it serves at once, and how fast.

    Attributes:
        max_running: requests in service at once at most.
        num_tokens: tokens of KV and adapters that fit; None is no limit. Nothing is evicted: an
            adapter takes its place while somebody in service uses it.
        prompt_token_s, output_token_s: what each token of a request takes [s].
        load_s: what a request takes in addition [s] if one of its adapters is not in service.
    """

    max_running: int
    num_tokens: int | None = None
    prompt_token_s: float = 1 / 4096
    output_token_s: float = 1 / 32
    load_s: float = 0.0


@dataclass(frozen=True)
class Work:
    """A request, which arrives at its `queued_s`, and how much it will really generate."""

    request: QueuedRequest
    num_output_tokens: int = 1


@dataclass(slots=True)
class Played:
    """What became of a request. Times are None for what did not happen.

    Attributes:
        call: how many were called before it.
        num_counted: output tokens that the policy has been told of.
    """

    work: Work
    call: int | None = None
    called_s: float | None = None
    started_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    refused_s: float | None = None
    num_counted: int = 0

    @property
    def ttft_s(self) -> float:
        """From the arrival to the first token; it must have got one."""
        assert self.first_token_s is not None
        return self.first_token_s - self.work.request.queued_s

    @property
    def num_tokens(self) -> int:
        """KV that it takes at its longest."""
        return self.work.request.num_prompt_tokens + self.work.num_output_tokens


class Lab:
    """Plays requests through a policy.

    Args:
        make_policy: makes the policy of each priority.
        device: what serves them.
        tokens_per_count: output tokens between two reports to the policy; a request's last report
            is at its end.

    Attributes:
        now_s: the time.
        calls: who was called, in this order.
        num_loads: how often an adapter came into service.
        max_adapters: adapters in service at once, at most.
    """

    def __init__(
        self, make_policy: PolicyFactory, device: Device, *, tokens_per_count: int = 16
    ) -> None:
        self.policy = PriorityLanes(make_policy)
        self.device = device
        self.now_s = 0.0
        self.calls: list[Played] = []
        self.num_loads = 0
        self.max_adapters = 0
        self._tokens_per_count = tokens_per_count
        self._in_play: Counter[str] = Counter()  # of those called, as the policy sees it
        self._in_service: Counter[str] = Counter()
        self._num_waiting = 0
        self._num_running = 0
        self._num_used_tokens = 0
        self._called: deque[Played] = deque()  # and not started
        self._all: dict[QueuedRequest, Played] = {}
        self._events: list[tuple[float, int, Played]] = []  # tie-broken by when they were planned
        self._numbers = count()

    def play(self, works: Iterable[Work]) -> list[Played]:
        """Play until everyone has ended or was refused; what became of each, in the order given."""
        played = [Played(work) for work in works]
        for each in played:
            self._plan(each.work.request.queued_s, each)
        while self._events:
            self.now_s = self._events[0][0]
            while self._events and self._events[0][0] == self.now_s:
                self._happen(heapq.heappop(self._events)[2])
            self._refuse()
            self._admit()
        return played

    def _plan(self, at_s: float, played: Played) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), played))

    def _happen(self, played: Played) -> None:
        """The next thing in the life of a request: it arrives, or gets tokens and maybe ends."""
        if played.started_s is None:
            self._all[played.work.request] = played
            self._num_waiting += 1
            self.policy.add(played.work.request)
        else:
            self._count(played)

    def _count(self, played: Played) -> None:
        if played.first_token_s is None:
            num_new = 1
            played.first_token_s = self.now_s
        else:
            num_left = played.work.num_output_tokens - played.num_counted
            num_new = min(num_left, self._tokens_per_count)
        played.num_counted += num_new
        self.policy.count_output(played.work.request, num_new, self.now_s)
        num_left = played.work.num_output_tokens - played.num_counted
        if num_left > 0:
            num_next = min(num_left, self._tokens_per_count)
            self._plan(self.now_s + num_next * self.device.output_token_s, played)
        else:
            self._end(played)

    def _admit(self) -> None:
        while self._num_running < self.device.max_running:
            if not self._called and not self._call():
                return
            if not self._fits(self._called[0]):
                return
            self._start(self._called.popleft())

    def _call(self) -> bool:
        """Call whose turn it is; False if nobody is to come."""
        request = self.policy.next(self._in_play) if self._num_waiting else None
        if request is None:
            return False
        self.policy.call(request)
        played = self._all[request]
        played.call, played.called_s = len(self.calls), self.now_s
        self._num_waiting -= 1
        self._in_play.update(request.adapters)
        self._called.append(played)
        self.calls.append(played)
        return True

    def _fits(self, played: Played) -> bool:
        limit = self.device.num_tokens
        request = played.work.request
        num_adapter_tokens = request.num_adapter_tokens if self._is_cold(request) else 0
        num_needed = played.num_tokens + num_adapter_tokens
        return limit is None or not self._num_running or self._num_used_tokens + num_needed <= limit

    def _is_cold(self, request: QueuedRequest) -> bool:
        return any(digest not in self._in_service for digest in request.adapters)

    def _start(self, played: Played) -> None:
        request = played.work.request
        played.started_s = self.now_s
        self.policy.start(request, self.now_s)
        load_s = self.device.load_s if self._is_cold(request) else 0.0
        if self._is_cold(request):
            self._num_used_tokens += request.num_adapter_tokens
            self.num_loads += 1
        self._in_service.update(request.adapters)
        self.max_adapters = max(self.max_adapters, len(self._in_service))
        self._num_running += 1
        self._num_used_tokens += played.num_tokens
        prompt_s = request.num_prompt_tokens * self.device.prompt_token_s
        self._plan(self.now_s + load_s + prompt_s, played)

    def _end(self, played: Played) -> None:
        request = played.work.request
        played.ended_s = self.now_s
        self.policy.end(request)
        _take_away(self._in_play, request)
        _take_away(self._in_service, request)
        if self._is_cold(request):
            self._num_used_tokens -= request.num_adapter_tokens
        self._num_running -= 1
        self._num_used_tokens -= played.num_tokens

    def _refuse(self) -> None:
        for refusal in self.policy.refusals(self.now_s):
            played = self._all[refusal.request]
            assert played.started_s is None, "one that was started is refused"
            assert played.refused_s is None, "one is refused twice"
            played.refused_s = self.now_s
            if played.called_s is None:
                self._num_waiting -= 1
                self.policy.remove(refusal.request)
            else:
                self._called.remove(played)
                _take_away(self._in_play, refusal.request)
                self.policy.end(refusal.request)


def _take_away(counter: Counter[str], request: QueuedRequest) -> None:
    counter.subtract(request.adapters)
    for digest in request.adapters:
        if counter[digest] == 0:
            del counter[digest]


def num_overtaking(played: Played, calls: list[Played]) -> int:
    """How many that arrived later were called before this one.

    Args:
        played: has been called.
        calls: who was called, in this order.
    """
    arrival = played.work.request.arrival
    return sum(other.work.request.arrival > arrival for other in calls[: played.call])
