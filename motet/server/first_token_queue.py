"""How many sequences wait for their first token, and how long one more would.

Owns: the bound on them, what of it each tenant may take, and the estimate.
Does not know: in which order the engine takes them.

The bound is on what has had no output yet, not on what the engine calls waiting: that is known
here without asking, and a sequence in prefill keeps its client waiting too.

A bound that whoever comes first may use up would have everybody refused who comes after a flood,
however fair the order is in which the engine takes what got in. So it is shared as switches share
the buffer behind their ports (dynamic thresholds; Choudhury and Hahne, IEEE/ACM Transactions on
Networking 6(2), 1998): a tenant may have as much as is left free of twice the bound. One alone gets
the whole bound, k that flood get 2 / (k + 1) of it each, and as much stays free for the next one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from motet.server.errors import OverloadedError
from motet.server.refusals import RefusalReason

_MEASURED_S = 30.0  # the rate of first tokens is of so long ago at most
_MAX_MEASURED = 1024
_LEAST_RETRY_S, _MOST_RETRY_S = 1.0, 120.0  # clients do not retry at all after longer waits


class FirstTokenQueue:
    """Ids of sequences without a first token, by tenant.

    Args:
        max_queued: most of them at a time, if they are of one tenant; there are never more than
            twice as many.
        clock: seconds that never go back.
    """

    def __init__(self, max_queued: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_queued = max_queued
        self._clock = clock
        self._lines: dict[str | None, _Line] = {}  # of tenants that wait
        self._tenants: dict[str, str | None] = {}  # of the ids

    def __len__(self) -> int:
        return len(self._tenants)

    @property
    def num_by_tenant(self) -> Mapping[str | None, int]:
        """How many wait of each tenant that waits."""
        return {tenant: len(line.waiting) for tenant, line in self._lines.items()}

    def add(self, ids: Sequence[str], tenant: str | None) -> None:
        """Have these wait, which are one request's.

        An empty queue takes a request of any size, for a request has only so many sequences; else
        one larger than the bound could never run.

        Raises:
            OverloadedError: 503; none of them waits.
        """
        line = self._lines.get(tenant)
        num_own = len(ids) if line is None else len(ids) + len(line.waiting)
        num_free = 2 * self._max_queued - len(self) - len(ids)
        if self._tenants and num_own > num_free:
            raise self._full(tenant)
        if line is None:
            line = self._lines[tenant] = _Line(self._clock())
        line.waiting.update(ids)
        self._tenants.update(dict.fromkeys(ids, tenant))

    def note_output(self, request_id: str) -> None:
        """A sequence has had an output; only its first one counts."""
        if request_id in self._tenants:
            self._lines[self._tenants[request_id]].first_tokens_s.append(self._clock())
            self.discard(request_id)

    def discard(self, request_id: str) -> None:
        """A sequence is over, whether or not it ever had an output."""
        if request_id not in self._tenants:
            return
        tenant = self._tenants.pop(request_id)
        line = self._lines[tenant]
        line.waiting.remove(request_id)
        if not line.waiting:
            del self._lines[tenant]

    def estimated_wait_s(self, tenant: str | None) -> float:
        """Seconds until what a tenant has waiting has had its turn, at its own rate of late.

        So it holds for whatever order the engine follows. For a tenant of which nothing waits, it
        is the time for all others. From 1 to 120.
        """
        own = self._lines.get(tenant)
        lines: Collection[_Line] = self._lines.values() if own is None else (own,)
        num_waiting = sum(len(line.waiting) for line in lines)
        now_s = self._clock()
        rate = sum(line.rate(now_s) for line in lines)
        wait_s = num_waiting / rate if num_waiting else 0.0
        return min(max(wait_s, _LEAST_RETRY_S), _MOST_RETRY_S)

    def _full(self, tenant: str | None) -> OverloadedError:
        retry_after_s = self.estimated_wait_s(tenant)
        return OverloadedError(
            f"The server is overloaded: {len(self)} sequences wait for their first token, and with "
            "this request whoever sent it would have more than their share of the room. Try again "
            f"in {retry_after_s:.0f} seconds.",
            reason=RefusalReason.QUEUE_FULL,
            retry_after_s=retry_after_s,
        )


class _Line:
    """What waits of one tenant, since something did.

    Attributes:
        waiting: ids.
        first_tokens_s: when those came that it had of late.
    """

    def __init__(self, now_s: float) -> None:
        self.waiting: set[str] = set()
        self.first_tokens_s: deque[float] = deque(maxlen=_MAX_MEASURED)
        self._since_s = now_s

    def rate(self, now_s: float) -> float:
        """First tokens per second of late."""
        since_s = max(self._since_s, now_s - _MEASURED_S)
        if len(self.first_tokens_s) == _MAX_MEASURED:  # earlier ones have been dropped
            since_s = max(since_s, self.first_tokens_s[0])
        num_recent = sum(at_s >= since_s for at_s in self.first_tokens_s)
        # Before the first one it is about to come, for all that is known.
        return max(1, num_recent) / max(now_s - since_s, 0.001)
