"""The server's own answer is understood, and leaks are what nobody owns."""

from dataclasses import replace

import orjson
import pytest

from benchmarks.many_adapters.leaks import leaked_pages
from benchmarks.many_adapters.memory_view import MemoryView, memory_view
from motet.core.messages import AdapterMemory, EngineReady, EngineStats, MemoryReport
from motet.server.memory_json import memory_json
from tests.adapters.make import TINY


def stats(**changes: int) -> EngineStats:
    fields = dict.fromkeys(EngineStats.__struct_fields__, 0)
    texts = {"operation_id": "1"}
    lists = {f"{state}_adapters": [] for state in ("running", "waiting", "resident")}
    return EngineStats(**{**fields, **texts, **lists, **changes})


def view(**changes: int) -> MemoryView:
    adapter = AdapterMemory(
        digest="d",
        device_state="resident",
        num_pages=5,
        num_prefix_pages=2,
        num_users=0,
        is_pinned=False,
        host_bytes=9,
    )
    report = MemoryReport("1", stats(**changes), num_base_prefix_pages=1, adapters=[adapter])
    ready = EngineReady("base", TINY, "float32", "cpu", 64, 16, 4096, 100)
    answer = memory_json(
        report,
        ready,
        policy="fcfs",
        num_names=3,
        names_of=lambda digest: [f"{digest}-name"],
    )
    return memory_view(orjson.loads(orjson.dumps(answer)))


IDLE = {
    "num_pages_total": 100,
    "num_pages_free": 70,
    "num_pages_cached": 25,
    "num_pages_cached_prefix": 10,
    "num_pages_adapters_in_use": 5,
    "num_pages_pinned": 5,
    "num_adapters_known": 7,
    "num_adapter_hits": 3,
    "num_adapter_misses": 1,
    "num_adapter_reads": 4,
    "num_adapter_loads": 6,
}


def test_pages_and_counters_are_found() -> None:
    seen = view(**IDLE)
    assert seen.pages_as_json() == {
        "total": 100,
        "free": 70,
        "cached_prefix": 10,
        "cached_adapters": 15,
        "kv": 0,
        "adapters_in_use": 5,
        "pinned": 5,
    }
    assert seen.page_bytes == 4096
    assert seen.pages_by_adapter == {"d-name": 5}
    assert seen.num_pages_adapters == 20
    assert seen.num_adapters_known == 7
    assert seen.counters.hit_rate == 0.75
    assert (seen.counters.num_reads, seen.counters.num_loads) == (4, 6)
    assert seen.is_idle


def test_counters_between_two_looks() -> None:
    later = view(**{**IDLE, "num_adapter_hits": 10, "num_adapter_loads": 8}).counters
    done = later.since(view(**IDLE).counters)
    assert (done.num_hits, done.num_misses, done.num_loads, done.num_reads) == (7, 0, 2, 0)
    assert done.hit_rate == 1.0
    assert later.since(later).hit_rate is None


@pytest.mark.parametrize("busy", [{"num_pages_kv": 1}, {"num_pages_adapters_in_use": 6}])
def test_a_server_with_pages_in_use_is_not_idle(busy: dict[str, int]) -> None:
    assert not view(**{**IDLE, **busy}).is_idle


def test_leaked_pages_are_in_no_column() -> None:
    idle = view(**IDLE)
    assert leaked_pages(idle) == 0
    assert leaked_pages(replace(idle, num_pages_free=68)) == 2
    # What a request kept for good is a leak as well.
    assert leaked_pages(replace(idle, num_pages_free=69, num_pages_kv=1)) == 1
