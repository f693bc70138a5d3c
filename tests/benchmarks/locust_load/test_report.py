"""Rows are of groups, totals of requests alone, and every end is counted as what it is."""

import time
from typing import Any

import gevent
import pytest
from locust.env import Environment

from benchmarks.locust_load.ask import Ask
from benchmarks.locust_load.client import Failed, Finished, Outcome, Refused
from benchmarks.locust_load.page import group_rows
from benchmarks.locust_load.report import Reporter
from benchmarks.locust_load.tally import Tally
from motet.bench.sse import Stream, StreamReader

ASK = Ask(path="/", body=b"", headers={}, group="a0", tenant_group="tenant t0")


class Client:
    """Has one end for every request, after some lines of a stream."""

    def __init__(self, outcome: Outcome | BaseException, num_pieces: int = 0) -> None:
        self._outcome = outcome
        self._num_pieces = num_pieces

    def send(self, ask: Ask, reader: StreamReader) -> Outcome:
        for _ in range(self._num_pieces):
            reader.feed(b'data: {"choices": [{"text": "word"}]}')
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


def send(client: Client, due_ago_s: float = 0.0) -> tuple[Environment, Tally, list[dict[str, Any]]]:
    environment, tally, posts = Environment(), Tally(), []
    environment.events.request.add_listener(lambda **post: posts.append(post))  # type: ignore[no-untyped-call]
    reporter = Reporter(environment, client, 2.0, tally)  # type: ignore[arg-type]
    reporter.send(ASK, time.perf_counter() - due_ago_s)
    return environment, tally, posts


def test_a_finished_request_has_rows_for_its_group_and_its_tenant() -> None:
    stream = Stream(num_output_tokens=8, piece_times_s=[0.5, 0.6, 0.9], total_s=1.0)
    environment, tally, posts = send(Client(Finished(stream), num_pieces=3))
    for group in ("a0", "tenant t0"):
        entries = environment.stats.entries
        assert entries[group, "TTFT"].max_response_time == pytest.approx(500)
        assert entries[group, "ITL"].num_requests == 2
        assert entries[group, "ITL"].max_response_time == pytest.approx(300)
        assert entries[group, "tokens/s"].max_response_time == pytest.approx(8)
    assert environment.stats.total.num_requests == 0  # of which the charts are made
    [post] = posts
    assert (post["name"], post["response_length"], post["exception"]) == ("a0", 8, None)
    assert post["response_time"] == pytest.approx(1000)
    assert (tally.num_finished, tally.num_in_time, tally.num_output_tokens) == (1, 1, 8)
    rows = {row["group"]: row for row in group_rows(environment.stats)}
    assert (rows["a0"]["answered"], rows["a0"]["ttft_50"]) == (1, 500)


def test_a_refusal_is_no_failure_but_its_promise_is_not_kept() -> None:
    environment, tally, posts = send(Client(Refused(1.0)))
    assert not posts
    assert environment.stats.entries["a0", "refused"].num_requests == 1
    assert (tally.num_refused, tally.num_failed) == (1, 0)
    assert (tally.num_judged, tally.num_in_time) == (1, 0)
    assert group_rows(environment.stats)[0]["refused"] == 1


def test_a_failure_has_its_reason() -> None:
    _, tally, [post] = send(Client(Failed("no reason")))
    assert post["exception"] == "no reason"
    assert (tally.num_failed, tally.num_judged, tally.num_in_time) == (1, 1, 0)


@pytest.mark.parametrize(
    ("num_pieces", "due_ago_s", "judged_and_in_time"),
    [(0, 0.0, (0, 0)), (0, 9.0, (1, 0)), (1, 0.0, (1, 1)), (1, 9.0, (1, 0))],
)
def test_what_is_given_up_is_judged_if_its_first_token_came_or_was_missed(
    num_pieces: int, due_ago_s: float, judged_and_in_time: tuple[int, int]
) -> None:
    client = Client(gevent.GreenletExit(), num_pieces)
    tally = Tally()
    reporter = Reporter(Environment(), client, 2.0, tally)  # type: ignore[arg-type]
    with pytest.raises(gevent.GreenletExit):
        reporter.send(ASK, time.perf_counter() - due_ago_s)
    assert (tally.num_judged, tally.num_in_time) == judged_and_in_time
    assert (tally.num_sent, tally.num_cut) == (1, 1)
    assert tally.num_late == (due_ago_s > 0)
