"""How many sequences wait for their first token, and how long one more would.

Owns: the bound on them, and the estimate.
Does not know: in which order the engine takes them.

The bound is on what has had no output yet, not on what the engine calls waiting: that is known
here without asking, and a sequence in prefill keeps its client waiting too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from motet.server.errors import RetryLaterError

_MEASURED_S = 30.0  # the rate of first tokens is of so long ago at most
_MAX_MEASURED = 1024
_LEAST_RETRY_S, _MOST_RETRY_S = 1.0, 120.0  # clients do not retry at all after longer waits


class FirstTokenQueue:
    """Ids of sequences without a first token.

    Args:
        max_queued: most of them at a time.
        clock: seconds that never go back.
    """

    def __init__(self, max_queued: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_queued = max_queued
        self._clock = clock
        self._waiting: set[str] = set()
        self._busy_since_s = clock()
        self._first_tokens_s: deque[float] = deque(maxlen=_MAX_MEASURED)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, ids: Sequence[str]) -> None:
        """Have these wait.

        An empty queue takes a request of any size, for a request has only so many sequences; else
        one larger than the bound could never run.

        Raises:
            RetryLaterError: 503 `overloaded`; none of them waits.
        """
        if self._waiting and len(self._waiting) + len(ids) > self._max_queued:
            retry_after_s = self.estimated_wait_s()
            raise RetryLaterError(
                f"The server is overloaded: {len(self._waiting)} sequences wait for their first "
                f"token, and at most {self._max_queued} may. Try again in {retry_after_s:.0f} "
                "seconds.",
                code="overloaded",
                retry_after_s=retry_after_s,
            )
        if not self._waiting:
            self._busy_since_s = self._clock()
            self._first_tokens_s.clear()
        self._waiting.update(ids)

    def note_output(self, request_id: str) -> None:
        """A sequence has had an output; only its first one counts."""
        if request_id in self._waiting:
            self._waiting.remove(request_id)
            self._first_tokens_s.append(self._clock())

    def discard(self, request_id: str) -> None:
        """A sequence is over, whether or not it ever had an output."""
        self._waiting.discard(request_id)

    def estimated_wait_s(self) -> float:
        """Seconds until those that wait have had their turn, at the rate of late; 1 to 120."""
        now_s = self._clock()
        since_s = max(self._busy_since_s, now_s - _MEASURED_S)
        if len(self._first_tokens_s) == _MAX_MEASURED:  # earlier ones have been dropped
            since_s = max(since_s, self._first_tokens_s[0])
        num_recent = sum(at_s >= since_s for at_s in self._first_tokens_s)
        # Before the first one it is about to come, for all that is known.
        rate = max(1, num_recent) / max(now_s - since_s, 0.001)
        return min(max(len(self._waiting) / rate, _LEAST_RETRY_S), _MOST_RETRY_S)
