"""Requests that the policy gives up, in the engine: told at once, and though no step runs."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from motet.core.messages import RequestFailed
from motet.engine.process import EngineLoop
from motet.engine.waker import Waker
from motet.scheduler.policies.choose import PolicyOptions, make_policy
from tests.engine.harness import Harness, adapter

SLO_S = 0.2


@pytest.fixture
def harness() -> Iterator[Harness]:
    options = PolicyOptions(ttft_slo_s=SLO_S, num_cluster_adapters=8)
    harness = Harness(make_policy=make_policy("slo", options))
    yield harness
    harness.engine.close()


def failures(harness: Harness) -> list[RequestFailed]:
    return [message for message in harness.sent if isinstance(message, RequestFailed)]


def test_it_can_sleep_until_the_oldest_has_to_be_refused(harness: Harness, tmp_path: Path) -> None:
    digest = harness.digest(adapter(tmp_path, "one"))
    assert harness.engine.longest_sleep_s is None
    harness.add("a", digest)
    sleep_s = harness.engine.longest_sleep_s
    assert sleep_s is not None
    assert 0.0 <= sleep_s <= SLO_S
    threading.Event().wait(SLO_S)
    assert harness.engine.longest_sleep_s == 0.0
    harness.engine.step()
    (failed,) = failures(harness)
    assert (failed.request_id, failed.code) == ("a", "overloaded")
    assert failed.retry_after_s is not None
    assert failed.retry_after_s >= 1.0
    assert harness.engine.longest_sleep_s is None
    assert harness.stats().num_refusals == 1
    harness.finish_all_is_well()


class SleepyEngine:
    """One with nothing to do, that has to look again soon. Its second step ends the loop."""

    def __init__(self, end: int) -> None:
        self.num_steps = 0
        self._end = end

    @property
    def longest_sleep_s(self) -> float | None:
        return 0.01 if self.num_steps == 1 else None

    def step(self) -> bool:
        self.num_steps += 1
        if self.num_steps == 2:
            os.close(self._end)
        return False


def test_the_loop_wakes_though_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.bind("inproc://refusals")
    life, end = os.pipe()
    with os.fdopen(life) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        engine = SleepyEngine(end)
        loop = EngineLoop(socket, Waker(), engine)  # type: ignore[arg-type]
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        thread.join(10.0)
        assert not thread.is_alive(), "it sleeps for ever"
    assert engine.num_steps == 2
    context.destroy(linger=0)


class BusyEngine:
    """One that could sleep for long, and is woken at once. Its second step ends the loop."""

    def __init__(self, longest_sleep_s: float, waker: Waker, end: int) -> None:
        self.longest_sleep_s = longest_sleep_s
        self.num_steps = 0
        self._waker = waker
        self._end = end

    def step(self) -> bool:
        self.num_steps += 1
        self._waker.wake()
        if self.num_steps == 2:
            os.close(self._end)
        return False


@pytest.mark.parametrize("sleep_s", [2**31 / 1e3, 1e9, 1e308])
def test_the_loop_can_sleep_for_as_long_as_an_slo_may_be(
    sleep_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.bind("inproc://refusals")
    life, end = os.pipe()
    with os.fdopen(life) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        waker = Waker()
        engine = BusyEngine(sleep_s, waker, end)
        try:
            EngineLoop(socket, waker, engine).run()  # type: ignore[arg-type]
        finally:
            context.destroy(linger=0)
    assert engine.num_steps == 2
