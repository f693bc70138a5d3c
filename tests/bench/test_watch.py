"""Samples are what the server's metrics say, under Motet's names or vLLM's."""

import asyncio
import contextlib
import time

import httpx2
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from motet.bench.record import Sample
from motet.bench.target import Target
from motet.bench.watch import Watch, read_metrics, sample_of
from motet.server.engine_metrics import EngineCollector
from tests.bench.scripted_server import ScriptedServer, running
from tests.server.stats import some_snapshot, some_stats

VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m}{ x"} 3.0
vllm:num_requests_running{engine="1",model_name="m}{ x"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_requests_running_total 9
"""


def test_motets_own_metrics() -> None:
    stats = some_stats(
        num_running=3,
        num_waiting=4,
        num_pages_total=100,
        num_pages_kv=10,
        num_pages_adapters_in_use=20,
        num_pages_cached=30,
        num_pages_free=40,
        resident_adapters=["a", "b"],
    )
    collector = EngineCollector()
    collector.update(some_snapshot(stats=stats))
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode()
    assert sample_of(read_metrics(text), 1.5) == Sample(
        at_s=1.5,
        num_running=3,
        num_waiting=4,
        num_resident_adapters=2,
        kv_share=0.1,
        adapter_share=0.2,
        cached_share=0.3,
        free_share=0.4,
    )


def test_vllms_metrics() -> None:
    assert sample_of(read_metrics(VLLM), 2.0) == Sample(
        at_s=2.0, num_running=7, num_waiting=2, kv_share=0.25
    )


@settings(max_examples=40)
@given(st.text() | st.text('motet_runigqesvlm:{}=",. 0\n', max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    sample_of(read_metrics("motet_running_requests " + text), 0.0)


def follow(server: ScriptedServer, seconds: float) -> Watch:
    async def run() -> Watch:
        start_s = time.monotonic()
        async with httpx2.AsyncClient() as http:
            target = Target(url=server.url)
            watch = Watch(http, target, lambda: time.monotonic() - start_s, interval_s=0.05)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watch.follow(), seconds)
            return watch

    with running(server):
        return asyncio.run(run())


def test_samples_are_taken_again_and_again() -> None:
    watch = follow(ScriptedServer(scripts={}, metrics=VLLM), seconds=1.0)
    assert len(watch.samples) >= 2
    assert [sample.at_s for sample in watch.samples] == sorted(s.at_s for s in watch.samples)
    assert watch.problem is None


def test_a_server_without_metrics_is_left_alone() -> None:
    watch = follow(ScriptedServer(scripts={}), seconds=20.0)
    assert watch.samples == []
    assert watch.problem == "/metrics answered 404"


def test_what_is_no_number_is_left_out() -> None:
    text = "motet_running_requests NaN\nmotet_waiting_requests +Inf\nmotet_pages_total NaN\n"
    assert sample_of(read_metrics(text), 1.0) == Sample(at_s=1.0)


def test_whatever_goes_wrong_does_not_end_the_run() -> None:
    async def run() -> list[Sample]:
        num_asked = 0

        def answer(request: httpx2.Request) -> httpx2.Response:
            nonlocal num_asked
            num_asked += 1
            if num_asked == 1:
                raise OSError("a socket of its own mind")
            return httpx2.Response(200, stream=httpx2.ByteStream(VLLM.encode()))

        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
            watch = Watch(http, Target(url="http://server"), lambda: 0.0, interval_s=0.01)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watch.follow(), 1.0)
            return watch.samples

    assert asyncio.run(run())
