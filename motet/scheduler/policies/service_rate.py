"""How fast requests are served: what has been seen lately, with the older fading.

Owns: the estimates, and how many wait at each priority.
Does not know: who is refused (`slo.py`).

Requests start as fast as they arrive while the server is not busy. That says nothing of how fast
they could start. So the rate of starts is taken over that time only in which somebody waited to be
called. With S, the starts, and B, the seconds in which somebody waited, each weighing
exp(-age / horizon), the next start is expected after B / S; with A, the arrivals, weighed likewise,
the server is overloaded if A / horizon > S / B.

- Requests that have been called and wait for their adapters do not count as waiting: others
  overtake them.
- At the beginning, and after a time in which nobody waited, B is small. Below a quarter of the
  horizon nothing is known, and nobody is refused by it.
- While nobody starts, S fades, and what is expected grows. The first start has it shrink at once.
- A clock that stands still or goes back ages nothing.
"""

import math
from collections import Counter

# The least B, as a share of the horizon, that tells anything.
_MIN_SHARE_WAITED = 0.25
# How much one more request says of the time to the first token.
_FIRST_TOKEN_SHARE = 0.1


class ServiceRate:
    """Rates of starts and arrivals, and the time from start to first token.

    Args:
        horizon_s: how far back it looks: about as far as what is expected looks ahead.

    Attributes:
        first_token_s: from a start to the first token, a moving average; 0 at the beginning.
    """

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._now_s: float | None = None
        self._num_starts = 0.0  # these three fade
        self._num_arrivals = 0.0
        self._waited_s = 0.0
        self._num_waiting: Counter[int] = Counter()  # by priority; not called
        self._num_called: Counter[int] = Counter()  # by priority; not started
        self.first_token_s = 0.0
        self._has_first_token = False

    @property
    def wait_s(self) -> float | None:
        """The time from one start to the next while somebody waits; None if it is not known."""
        if self._num_starts == 0.0 or self._waited_s < _MIN_SHARE_WAITED * self._horizon_s:
            return None
        return self._waited_s / self._num_starts

    @property
    def is_overloaded(self) -> bool:
        """Whether requests are known to arrive faster than they start."""
        wait_s = self.wait_s
        return wait_s is not None and self._num_arrivals * wait_s > self._horizon_s

    def num_before(self, priority: int) -> int:
        """Requests of lower numbers that have not started."""
        unstarted = (*self._num_waiting.items(), *self._num_called.items())
        return sum(num for each, num in unstarted if each < priority)

    def advance(self, now_s: float) -> None:
        """Have what was seen fade."""
        past_s = 0.0 if self._now_s is None else max(0.0, now_s - self._now_s)
        self._now_s = now_s
        fading = math.exp(-past_s / self._horizon_s)
        self._num_starts *= fading
        self._num_arrivals *= fading
        self._waited_s *= fading
        if self._num_waiting:
            self._waited_s += self._horizon_s * (1.0 - fading)

    def arrive(self, priority: int, now_s: float) -> None:
        """A request waits."""
        self.advance(now_s)
        self._num_arrivals += 1.0
        self._num_waiting[priority] += 1

    def call(self, priority: int) -> None:
        """The turn of one that waited has come."""
        _count_down(self._num_waiting, priority)
        self._num_called[priority] += 1

    def start(self, priority: int, now_s: float) -> None:
        """A called one runs."""
        self.advance(now_s)
        self._num_starts += 1.0
        _count_down(self._num_called, priority)

    def leave(self, priority: int, *, is_called: bool) -> None:
        """One is over that has not started."""
        _count_down(self._num_called if is_called else self._num_waiting, priority)

    def observe_first_token(self, seconds: float) -> None:
        """What one request took from its start to its first token."""
        share = _FIRST_TOKEN_SHARE if self._has_first_token else 1.0
        self.first_token_s += share * (seconds - self.first_token_s)
        self._has_first_token = True


def _count_down(counter: Counter[int], priority: int) -> None:
    counter[priority] -= 1
    if counter[priority] == 0:
        del counter[priority]
