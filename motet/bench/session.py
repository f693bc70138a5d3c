"""One playing of requests, with everything that is measured meanwhile.

Owns: the start of time, and what goes on beside the requests.
Does not know: what is made of it all (`run.py`).
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2

from motet.bench.asking import Asking
from motet.bench.background import finished_before, running
from motet.bench.client import Client
from motet.bench.journal import Journal
from motet.bench.play import Player
from motet.bench.self_check import SelfCheck
from motet.bench.watch import Watch
from motet.bench.workload import WorkRequest
from motet.core.loop_lag import watched_loop_lag


@dataclass(frozen=True, kw_only=True)
class Played:
    """How a playing went.

    Attributes:
        started_at: by the clock on the wall.
        wall_s: how long it took.
        is_whole: whether all requests had ended before it was stopped.
    """

    started_at: datetime
    wall_s: float
    is_whole: bool


class Session:
    """A playing of requests.

    Args:
        asking: how they are asked.
        journal: what comes of them.
        http: for the server's metrics.
        limit_s: the longest that a request may take.
        sample_interval_s: between looks at the metrics.

    Attributes:
        check: whether the client kept up.
        client: what asks.
        watch: what looks at the server.
    """

    def __init__(
        self,
        asking: Asking,
        journal: Journal,
        http: httpx2.AsyncClient,
        *,
        limit_s: float,
        sample_interval_s: float,
    ) -> None:
        self._start_s = 0.0
        self._asking = asking
        self._journal = journal
        self.check = SelfCheck()
        self.client = Client(asking.target, limit_s=limit_s, now_s=self._now_s)
        self.watch = Watch(http, asking.target, self._now_s, sample_interval_s)

    async def play(
        self, requests: Sequence[WorkRequest], num_clients: int | None, stop: asyncio.Event
    ) -> Played:
        """Send all, in a closed loop of `num_clients` or in an open one.

        Args:
            stop: when it is set, requests that have not ended are given up.
        """
        player = Player(requests, self._send, self._now_s)
        work = player.play_open() if num_clients is None else player.play_closed(num_clients)
        started_at = datetime.now(UTC)
        self._start_s = time.perf_counter()
        async with (
            self.client,
            watched_loop_lag(self.check.loop_lags_s.append),
            running(self.watch.follow()),
        ):
            is_whole = await finished_before(stop, work)
            wall_s = self._now_s()
        return Played(started_at=started_at, wall_s=wall_s, is_whole=is_whole)

    async def _send(self, request: WorkRequest, due_s: float) -> None:
        asked = self._asking.asked(request)
        self.check.send_lags_s.append(self._now_s() - due_s)
        await self.client.send(asked, due_s, self._journal)

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s
