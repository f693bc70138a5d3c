"""What the clients of a simulated server see: when each token comes, and how each request ends.

Owns: the records of requests, and which requests wait for the ends of others.
Does not know: why tokens come when they do (`simulation.py`).
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from motet.bench.record import RequestRecord
from motet.bench.workload import WorkRequest
from motet.core.messages import TokenOutput


@dataclass
class _Sent:
    """A request under way."""

    request: WorkRequest
    sent_s: float
    times_s: list[float] = field(default_factory=list)


class Clients:
    """Sends the requests of a workload at their times, and keeps what comes of them.

    Request ids are the indexes of the requests as text.

    Attributes:
        num_live: requests that were sent and have not ended.
    """

    def __init__(self, requests: Sequence[WorkRequest]) -> None:
        self._due: list[tuple[float, int, WorkRequest]] = []
        self._followers: defaultdict[int, list[WorkRequest]] = defaultdict(list)
        self._sent: dict[str, _Sent] = {}
        self._records: list[RequestRecord] = []
        for request in requests:
            if request.after is None:
                self._due.append((request.arrival_s, request.index, request))
            else:
                self._followers[request.after].append(request)
        heapq.heapify(self._due)

    @property
    def num_live(self) -> int:
        return len(self._sent)

    @property
    def next_arrival_s(self) -> float | None:
        """When the next request is sent; None if none is due yet."""
        return self._due[0][0] if self._due else None

    @property
    def records(self) -> list[RequestRecord]:
        """Of the requests that have ended, in the order of the workload."""
        return sorted(self._records, key=lambda record: record.index)

    def take_arrivals(self, now_s: float) -> list[WorkRequest]:
        """Those that are sent by now, in order, each once."""
        arrivals = []
        while self._due and self._due[0][0] <= now_s:
            sent_s, _, request = heapq.heappop(self._due)
            self._sent[str(request.index)] = _Sent(request, sent_s)
            arrivals.append(request)
        return arrivals

    def take_output(self, output: TokenOutput, now_s: float) -> None:
        """Tokens have come, and perhaps the end."""
        sent = self._sent[output.request_id]
        sent.times_s += [now_s] * len(output.token_ids)
        if output.finish_reason is not None:
            self._end(sent, now_s, num_cached_tokens=output.num_cached_tokens)

    def fail(
        self, request_id: str, now_s: float, error: str, retry_after_s: float | None = None
    ) -> None:
        """A request was refused."""
        self._end(self._sent[request_id], now_s, error=error, retry_after_s=retry_after_s)

    def _end(
        self,
        sent: _Sent,
        now_s: float,
        *,
        num_cached_tokens: int = 0,
        error: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        request = sent.request
        del self._sent[str(request.index)]
        for follower in self._followers.pop(request.index, ()):
            heapq.heappush(self._due, (max(now_s, follower.arrival_s), follower.index, follower))
        self._records.append(
            RequestRecord(
                index=request.index,
                adapter=request.adapter,
                model=request.adapter or "base",
                tenant=request.tenant,
                sent_s=sent.sent_s,
                piece_times_s=sent.times_s,
                ended_s=now_s,
                num_prompt_tokens=request.num_prompt_tokens,
                num_cached_tokens=num_cached_tokens,
                num_output_tokens=len(sent.times_s),
                status=200 if error is None else 503,
                error=error,
                retry_after_s=retry_after_s,
            )
        )
