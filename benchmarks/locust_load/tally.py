"""Counts of a load test, which processes add up.

Owns: what is counted, and when a request has kept its promise.
Does not know: how counts travel, nor what is demanded of them (`verdict.py`).
"""

from copy import copy
from typing import Self

import msgspec

# Less is lost in the clock and the event loop of a healthy client.
LATE_S = 0.1


class Tally(msgspec.Struct, kw_only=True):
    """What became of the requests so far.

    Attributes:
        num_sent: requests.
        num_finished: those of which all of the answer came.
        num_refused: those that the server told to come again later.
        num_failed: those that went wrong in any other way.
        num_cut: those that the client gave up when its time was over.
        num_output_tokens: of finished ones.
        num_in_time: those whose first token came in time.
        num_judged: those of which it is known whether it did: all but the ones that were given up
            before it could be.
        num_late: requests that the client sent later than it should have.
        max_late_s: by how much, the worst of all.
        started_s, ended_s: `time.time()` of the first sending and the last ending; None for none.
    """

    num_sent: int = 0
    num_finished: int = 0
    num_refused: int = 0
    num_failed: int = 0
    num_cut: int = 0
    num_output_tokens: int = 0
    num_in_time: int = 0
    num_judged: int = 0
    num_late: int = 0
    max_late_s: float = 0.0
    started_s: float | None = None
    ended_s: float | None = None

    def add(self, other: Self) -> None:
        """Count what another process has counted."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_late_s = max(self.max_late_s, other.max_late_s)
        self._begin(other.started_s)
        self._end(other.ended_s)

    def take(self) -> Self:
        """The counts so far; it counts from nothing then."""
        taken = copy(self)
        for name, value in zip(self.__struct_fields__, self.__struct_defaults__, strict=True):
            setattr(self, name, value)
        return taken

    def sent(self, late_s: float, now_s: float) -> None:
        """Count a request that is being sent, so long after it should have been."""
        self.num_sent += 1
        self.num_late += late_s > LATE_S
        self.max_late_s = max(self.max_late_s, late_s)
        self._begin(now_s)

    def ended(self, now_s: float) -> None:
        """Note that a request has ended, whatever its end was."""
        self._end(now_s)

    def judge(self, ttft_s: float | None, slo_s: float) -> None:
        """Count whether the first token came in time. None: it never comes."""
        self.num_judged += 1
        self.num_in_time += ttft_s is not None and ttft_s <= slo_s

    @property
    def attainment(self) -> float | None:
        """The share of requests whose first token came in time; None if there are none."""
        return self.num_in_time / self.num_judged if self.num_judged else None

    @property
    def fail_ratio(self) -> float:
        """The share of failures among what came to an end of its own."""
        num_ended = self.num_finished + self.num_refused + self.num_failed
        return self.num_failed / num_ended if num_ended else 0.0

    @property
    def elapsed_s(self) -> float:
        """From the first sending to the last ending."""
        if self.started_s is None or self.ended_s is None:
            return 0.0
        return self.ended_s - self.started_s

    def _begin(self, at_s: float | None) -> None:
        self.started_s = min(_known(self.started_s, at_s), default=None)

    def _end(self, at_s: float | None) -> None:
        self.ended_s = max(_known(self.ended_s, at_s), default=None)


_SUMS = tuple(name for name in Tally.__struct_fields__ if name.startswith("num_"))


def _known(*values: float | None) -> list[float]:
    return [value for value in values if value is not None]
