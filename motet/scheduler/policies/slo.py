"""First tokens in time: who cannot have one is told so, and the others are served.

Owns: who is refused, and that the newest go first when there are too many.
Does not know: how fast requests are served (`service_rate.py`), nor any order of its own but that
one; it goes over another policy.

S-LoRA (Sheng et al., MLSys 2024, arXiv 2311.03285) drops a request when its deadline is half a
second away, and serves the newest first when more arrive than are served. Here a request is refused
as soon as it is expected to come too late, which may be when it arrives. What is expected is

    time waited + requests before it / rate of starts + time from start to first token  >  SLO

where "before it" are those of lower priority numbers, those that have been called and have not
started, and those that come earlier in the order of this policy. Whoever has nobody before it is
never refused by this, so that there is always one to learn from. When the time waited and the time
to the first token alone exceed the SLO, a request is refused whatever is before it, also one that
has been called: its adapters did not come in time, or there was no room. The time to the first
token counts for half of the SLO at most. So a server that takes longer than its SLO on an idle
machine refuses those only who waited for long.

When requests arrive faster than they start, the newest is served first, and the oldest are refused:
all who are served are served soon, where in the order of arrival all would be served at the last
moment. That goes with first come, first served; an order that has reasons of its own keeps it, and
those at its end are refused.

Deadlines are looked at in each step, the line as a whole a hundred times per SLO: it is walked in
order, and a refused request is before nobody. So most steps cost nothing.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from itertools import islice

from motet.scheduler.policies.service_rate import ServiceRate
from motet.scheduler.policy import Policy, QueuedRequest, Refusal

# Looks at the whole line in the time of the SLO.
_LOOKS_PER_SLO = 100
# The share of the SLO that the time from start to first token may take in what is expected.
_MAX_FIRST_TOKEN_SHARE = 0.5
# Bounds of what a refused request is told to wait [s]: a header has whole seconds, and no estimate
# is good for long.
_MIN_RETRY_S = 1.0
_MAX_RETRY_S = 60.0


class Slo(Policy):
    """Refuses who would get a first token too late.

    Args:
        order: whose turn it is otherwise. It refuses nobody itself.
        rate: how fast requests are served. Shared among priorities.
        ttft_slo_s: within how long a first token is worth something.
        newest_first: whether the newest go first when more arrive than are served. The order is
            then told of calls out of turn.
    """

    def __init__(
        self, order: Policy, rate: ServiceRate, ttft_slo_s: float, *, newest_first: bool
    ) -> None:
        self._order = order
        self._rate = rate
        self._slo_s = ttft_slo_s
        self._may_turn = newest_first
        self._is_newest_first = False
        self._looked_s: float | None = None
        self._waiting: OrderedDict[QueuedRequest, None] = OrderedDict()  # by arrival
        self._unstarted: OrderedDict[QueuedRequest, None] = OrderedDict()  # and those called
        self._started_s: dict[QueuedRequest, float] = {}  # those without a first token

    def add(self, request: QueuedRequest) -> None:
        self._order.add(request)
        self._waiting[request] = None
        self._unstarted[request] = None
        self._rate.arrive(request.priority, request.queued_s)

    def remove(self, request: QueuedRequest) -> None:
        self._order.remove(request)
        del self._waiting[request]
        del self._unstarted[request]
        self._rate.leave(request.priority, is_called=False)

    def next(self, in_play: Collection[str]) -> QueuedRequest | None:
        if self._is_newest_first:
            return next(reversed(self._waiting), None)
        return self._order.next(in_play)

    def upcoming(self, count: int) -> list[QueuedRequest]:
        if self._is_newest_first:
            return list(islice(reversed(self._waiting), count))
        return self._order.upcoming(count)

    def call(self, request: QueuedRequest) -> None:
        self._order.call(request)
        del self._waiting[request]
        self._rate.call(request.priority)

    def refusals(self, now_s: float) -> list[Refusal]:
        self._rate.advance(now_s)
        refused = self._past_hope(now_s)
        if self._looked_s is None or now_s - self._looked_s >= self._slo_s / _LOOKS_PER_SLO:
            self._looked_s = now_s
            self._is_newest_first = self._may_turn and self._rate.is_overloaded
            refused += self._too_late(now_s, {*refused})
        num_before = self._num_before() + len(self._waiting) - len(refused)
        return [self._refusal(each, num_before + i) for i, each in enumerate(refused)]

    def is_owed(self, request: QueuedRequest) -> bool:
        return self._order.is_owed(request)

    def has_excess(self, request: QueuedRequest) -> bool:
        return self._order.has_excess(request)

    def next_refusal_s(self) -> float | None:
        oldest = next(iter(self._unstarted), None)
        return None if oldest is None else self._hopeless_s(oldest)

    def start(self, request: QueuedRequest, now_s: float) -> None:
        self._order.start(request, now_s)
        del self._unstarted[request]
        self._started_s[request] = now_s
        self._rate.start(request.priority, now_s)

    def count_output(self, request: QueuedRequest, num_tokens: int, now_s: float) -> None:
        self._order.count_output(request, num_tokens, now_s)
        started_s = self._started_s.pop(request, None)
        if started_s is not None:
            self._rate.observe_first_token(now_s - started_s)

    def end(self, request: QueuedRequest) -> None:
        self._order.end(request)
        self._started_s.pop(request, None)
        if request in self._unstarted:
            del self._unstarted[request]
            self._rate.leave(request.priority, is_called=True)

    def _past_hope(self, now_s: float) -> list[QueuedRequest]:
        """Those that are too late whatever happens: the oldest."""
        refused = []
        for request in self._unstarted:
            if now_s < self._hopeless_s(request):
                break
            refused.append(request)
        return refused

    def _hopeless_s(self, request: QueuedRequest) -> float:
        """From when on a request cannot have its first token in time, though it start at once."""
        return request.queued_s + self._slo_s - self._first_token_s

    @property
    def _first_token_s(self) -> float:
        return min(self._rate.first_token_s, _MAX_FIRST_TOKEN_SHARE * self._slo_s)

    def _too_late(self, now_s: float, known: Collection[QueuedRequest]) -> list[QueuedRequest]:
        """Those that wait and are expected to come too late.

        Args:
            known: are refused already.
        """
        wait_s = self._rate.wait_s
        if wait_s is None:
            return []
        latest_s = self._slo_s - self._first_token_s - now_s
        num_before = self._num_before()
        refused = []
        for request in self._in_order():
            if request in known:
                continue
            if num_before * wait_s - request.queued_s > latest_s:
                refused.append(request)
            else:
                num_before += 1
        return refused

    def _in_order(self) -> Iterable[QueuedRequest]:
        """All that wait, the next first."""
        if self._is_newest_first:
            return reversed(self._waiting)
        return self._order.upcoming(len(self._waiting))

    def _num_before(self) -> int:
        """Requests that start before any that waits here."""
        oldest = next(iter(self._waiting), None)
        num_called = len(self._unstarted) - len(self._waiting)
        return num_called + (0 if oldest is None else self._rate.num_before(oldest.priority))

    def _refusal(self, request: QueuedRequest, num_before: int) -> Refusal:
        """A request is told to come back when those who wait now have been served.

        Those who are refused before it count among them: they come back, too.
        """
        wait_s = self._rate.wait_s
        retry_after_s = self._slo_s if wait_s is None else num_before * wait_s
        return Refusal(
            request,
            f"The server is overloaded: the first token could not come within {self._slo_s:g} s of "
            "the request's arrival. Try again later.",
            min(max(retry_after_s, _MIN_RETRY_S), _MAX_RETRY_S),
        )
