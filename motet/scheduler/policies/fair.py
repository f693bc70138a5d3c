"""Fair shares of tokens: of the server among tenants, of a tenant's among its adapters.

Owns: what a request is charged, and that the least served is next.
Does not know: how counters are kept and sorted (`counters.py`).

This is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI
2024, arXiv 2401.00588), on two levels. A tenant's counter grows by 1 for each token of a prompt
when the request is called, and by 2 for each token that is generated, over the weight of the
request. Next is the tenant with the least counter; of its adapters, the one whose counter within
the tenant is least; of its requests, the oldest. Requests of several adapters count under all of
them together.

A tenant that has nothing waiting and comes back has its counter lifted to the least of those that
wait, or, if nobody does, to that of whoever was called last. So nobody saves up a claim by staying
away. The same holds of a tenant's adapters.

A request that is called and ends before it ever ran gets its charge back.

The order alone would have a tenant wait until requests of others end, which run for long under a
flood. So a tenant that has less than its share of the server (`shares.py`) is owed its
turn: it comes before those that are not, and if it finds no room, requests of a tenant with far
more than its share are sent back to the line; the paper does not preempt. A tenant that is owed its
turn need not have the least counter: of two requests that come at once, the first one's prompt
would have the second wait until the flood's counter has passed it. It may be ahead by the tokens
that others have in play.

**The bound.** Let requests be of one priority and in play from their call to their end. Let M be
the most tokens, prompt and longest output, of all requests that were in play at one time, and W the
least weight. While two tenants both have requests waiting, their counters differ by no more than
U = 2 M / W, and what they are served in any part of that time, each over its weight, by no more
than 2 U. For: when the greater of the two was last called, it had the lesser counter, or was ahead
of it by no more than what others had in play. It has grown since by that one prompt and by the
output of requests that were in play then, and the other has shrunk by no more than prompts that
were in play then. The paper has max(1 L, 2 M') for U, where M' are the tokens of running requests
and L is the longest prompt; here those count as well that have been called and wait for their
adapters, and charges that are given back.

A tenant's counter is one for all priorities: what it is served at one counts at the others. Nobody
is lifted above those that wait at the same priority.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from motet.scheduler.policies.counters import Counter, CounterGroup, LeastFirst
from motet.scheduler.policies.shares import Shares
from motet.scheduler.policy import Policy, QueuedRequest

# What a token costs, relative to the others: prompts are computed many tokens at a time.
INPUT_COST = 1.0
OUTPUT_COST = 2.0

# Tenants among which one that is owed its turn is looked for, from the least served on.
MAX_LOOKED_AT = 4

T = TypeVar("T")

_Adapters = tuple[str, ...]
_Requests = OrderedDict[QueuedRequest, None]


class _TenantCounter(Counter):
    """A tenant's counter, and those of its adapters among each other."""

    __slots__ = ("adapters",)

    def __init__(self, count: float) -> None:
        super().__init__(count)
        self.adapters: CounterGroup[_Adapters, Counter] = CounterGroup(Counter)


_TenantLine = LeastFirst[_Adapters, Counter, _Requests]
"""The requests of one tenant that wait, by adapters."""


class TokenCounters:
    """What every tenant has been served. Shared among priorities.

    Attributes:
        tenants: their counters.
        shares: what they have in play.
    """

    def __init__(self) -> None:
        self.shares = Shares()
        self.tenants: CounterGroup[str | None, _TenantCounter] = CounterGroup(_TenantCounter)


@dataclass(slots=True)
class _Bill:
    """Whom a request is charged to.

    Attributes:
        num_unused_tokens: charged when it was called, before it ran.
        num_tokens: that it has in play.
    """

    tenant: _TenantCounter
    adapters: Counter
    num_unused_tokens: int = 0
    num_tokens: int = 0


class Fair(Policy):
    """The tenant that has been served least.

    Args:
        counters: of all tenants.
    """

    def __init__(self, counters: TokenCounters) -> None:
        self._counters = counters.tenants
        self._shares = counters.shares
        self._tenants: LeastFirst[str | None, _TenantCounter, _TenantLine]
        self._tenants = LeastFirst(counters.tenants)
        self._bills: dict[QueuedRequest, _Bill] = {}  # of all between `add` and their end

    def add(self, request: QueuedRequest) -> None:
        tenant = self._counters.hold(request.tenant)
        adapters = tenant.adapters.hold(request.adapters)
        self._bills[request] = _Bill(tenant, adapters)
        self._shares.join(request.tenant, request.weight)
        line = self._tenants.get(request.tenant)
        if line is None:
            line = LeastFirst(tenant.adapters)
            self._tenants.add(request.tenant, tenant, line)
        requests = line.get(request.adapters)
        if requests is None:
            requests = OrderedDict()
            line.add(request.adapters, adapters, requests)
        requests[request] = None

    def remove(self, request: QueuedRequest) -> None:
        self._leave_line(request)
        self._settle(request)

    def next(self, in_play: Collection[str]) -> QueuedRequest | None:
        least: QueuedRequest | None = None
        for line in islice(self._tenants, MAX_LOOKED_AT):
            request = _next_of(line)
            if least is None:
                least = request
            if self.is_owed(request) and self._is_close(request, least):
                return request
        return least

    def upcoming(self, count: int) -> list[QueuedRequest]:
        """By turns, as if all requests were of one size."""
        tenants = (_in_turns(iter(requests) for requests in line) for line in self._tenants)
        return list(islice(_in_turns(tenants), count))

    def call(self, request: QueuedRequest) -> None:
        bill = self._bills[request]
        self._counters.call(bill.tenant)
        bill.tenant.adapters.call(bill.adapters)
        self._leave_line(request)
        bill.num_unused_tokens = request.num_prompt_tokens
        self._take(request, bill, request.num_prompt_tokens)
        _charge(bill, INPUT_COST * request.num_prompt_tokens / request.weight)

    def start(self, request: QueuedRequest, now_s: float) -> None:
        self._bills[request].num_unused_tokens = 0
        self._shares.serve(request.tenant, INPUT_COST * request.num_prompt_tokens, now_s)

    def count_output(self, request: QueuedRequest, num_tokens: int, now_s: float) -> None:
        bill = self._bills[request]
        self._take(request, bill, num_tokens)
        self._shares.serve(request.tenant, OUTPUT_COST * num_tokens, now_s)
        _charge(bill, OUTPUT_COST * num_tokens / request.weight)

    def is_owed(self, request: QueuedRequest) -> bool:
        num_tokens = self._bills[request].num_tokens  # none before it is called
        return self._shares.is_owed(request.tenant, 0 if num_tokens else request.num_prompt_tokens)

    def has_excess(self, request: QueuedRequest) -> bool:
        return self._shares.has_excess(request.tenant, self._bills[request].num_tokens)

    def end(self, request: QueuedRequest) -> None:
        bill = self._bills[request]
        if bill.num_unused_tokens:
            unused = INPUT_COST * bill.num_unused_tokens / request.weight
            self._counters.lower(bill.tenant, unused)
            bill.tenant.adapters.lower(bill.adapters, unused)
        self._settle(request)

    def _is_close(self, request: QueuedRequest, least: QueuedRequest) -> bool:
        """Whether its tenant's counter is so little above the least that the bound stays."""
        slack = self._shares.num_tokens_of_others(request.tenant) / request.weight
        ahead = self._bills[request].tenant.count - self._bills[least].tenant.count
        return ahead <= slack

    def _leave_line(self, request: QueuedRequest) -> None:
        line = self._tenants.get(request.tenant)
        requests = None if line is None else line.get(request.adapters)
        assert line is not None
        assert requests is not None
        del requests[request]
        if not requests:
            line.remove(request.adapters)
        if not line:
            self._tenants.remove(request.tenant)

    def _take(self, request: QueuedRequest, bill: _Bill, num_tokens: int) -> None:
        bill.num_tokens += num_tokens
        self._shares.take(request.tenant, num_tokens)

    def _settle(self, request: QueuedRequest) -> None:
        bill = self._bills.pop(request)
        self._take(request, bill, -bill.num_tokens)
        self._shares.leave(request.tenant)
        bill.tenant.adapters.release(bill.adapters)
        self._counters.release(bill.tenant)


def _next_of(line: _TenantLine) -> QueuedRequest:
    """The oldest request of the adapters that were served least."""
    requests = line.least()
    assert requests, "a tenant's line is kept while somebody waits in it"
    return next(iter(requests))


def _charge(bill: _Bill, cost: float) -> None:
    bill.tenant.count += cost
    bill.adapters.count += cost


def _in_turns(sources: Iterable[Iterator[T]]) -> Iterator[T]:
    """One of each, then the second of each, and so on; each source is looked at when it is due."""
    while True:
        left = []
        for source in sources:
            for item in islice(source, 1):
                yield item
                left.append(source)
        if not left:
            return
        sources = left
