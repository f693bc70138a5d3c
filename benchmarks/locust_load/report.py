"""Reports what came of requests: rows of locust's table, and counts.

Owns: which rows there are, and how an outcome is counted.
Does not know: how requests are sent, how counts are added up.

Rows beside POST are written into the table directly. As locust's request events they would be part
of its totals, and its charts would show tokens as requests.
"""

import time
from collections.abc import Sequence

from locust.env import Environment

from benchmarks.locust_load.ask import Ask
from benchmarks.locust_load.client import Client, Failed, Finished, Outcome, Refused
from benchmarks.locust_load.tally import Tally
from motet.bench.sse import Stream, StreamReader


class Reporter:
    """Sends requests by a client, and reports what comes of them.

    Args:
        slo_s: the first token is promised within.
        tally: is added to.
    """

    def __init__(
        self, environment: Environment, client: Client, slo_s: float, tally: Tally
    ) -> None:
        self._environment = environment
        self._client = client
        self._slo_s = slo_s
        self._tally = tally

    def send(self, ask: Ask, due_s: float) -> Outcome:
        """Send a request that was due at this time of `time.perf_counter()`.

        Latencies count from then: a client that is late does not make its server look faster.
        """
        reader = StreamReader(due_s)
        outcome: Outcome | None = None
        self._tally.sent(time.perf_counter() - due_s, time.time())
        try:
            outcome = self._client.send(ask, reader)
            return outcome
        finally:
            self._tally.ended(time.time())
            waited_s = time.perf_counter() - due_s
            self._count(ask, outcome, reader.piece_times_s, waited_s)

    def _count(
        self, ask: Ask, outcome: Outcome | None, piece_times_s: Sequence[float], waited_s: float
    ) -> None:
        ttft_s = piece_times_s[0] if piece_times_s else None
        match outcome:
            case Finished(stream):
                self._tally.num_finished += 1
                self._tally.num_output_tokens += stream.num_output_tokens
                self._post(ask, stream.total_s, stream.num_output_tokens, None)
                self._rows(ask, stream)
            case Refused():
                self._tally.num_refused += 1
                self._row("refused", ask.group, waited_s * 1e3)
            case Failed(reason):
                self._tally.num_failed += 1
                self._post(ask, waited_s, 0, reason)
            case None:
                self._tally.num_cut += 1
                if ttft_s is None and waited_s <= self._slo_s:
                    return  # its first token could still have come in time
        self._tally.judge(ttft_s, self._slo_s)

    def _post(self, ask: Ask, total_s: float, num_tokens: int, error: str | None) -> None:
        self._environment.events.request.fire(  # type: ignore[no-untyped-call]  # no annotations
            request_type="POST",
            name=ask.group,
            response_time=total_s * 1e3,
            response_length=num_tokens,
            exception=error,
            context={},
        )

    def _rows(self, ask: Ask, stream: Stream) -> None:
        for group in filter(None, (ask.group, ask.tenant_group)):
            self._row("TTFT", group, stream.ttft_s * 1e3)
            for gap_s in stream.itl_s:
                self._row("ITL", group, gap_s * 1e3)
            self._row("tokens/s", group, stream.num_output_tokens / stream.total_s)

    def _row(self, kind: str, group: str, value: float) -> None:
        # Locust rounds times itself where it must; its annotation says int.
        self._environment.stats.get(group, kind).log(value, 0)  # type: ignore[arg-type]
