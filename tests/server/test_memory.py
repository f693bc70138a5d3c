"""GET /admin/v1/memory, and that /metrics says the same."""

from pathlib import Path
from typing import Any

from motet.core.messages import AdapterMemory, EngineReady, MemoryReport
from motet.core.shape import ModelShape
from motet.server.memory_json import memory_json
from tests.server.conftest import StartServer
from tests.server.fake_engine import HOST_BUDGET_BYTES, PAGE_BYTES, PAGE_SIZE, digest_of
from tests.server.running_server import RunningServer, wait_until
from tests.server.stats import some_stats
from tests.server.test_metrics import scrape

PATH = "/admin/v1/memory"
ENGINE = EngineReady("m", ModelShape(2, 64, 128, 4, 2, 16, 259), "float32", "cpu", 512, 16, 4096, 9)


def memory_of(server: RunningServer) -> dict[str, Any]:
    response = server.get(PATH)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_nothing_was_counted_yet(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(engine={"num_pages": 50}, adapter_dir=adapters_dir) as server:
        memory = memory_of(server)
        assert memory["pages"] == {
            "total": 50,
            "free": 50,
            "cached": {"prefix": 0, "adapters": 0},
            "kv": 0,
            "adapters_in_use": 0,
            "pinned": 0,
            "size_tokens": PAGE_SIZE,
            "size_bytes": PAGE_BYTES,
        }
        assert memory["tiers"] == {
            "device": {"adapters": 0, "pages": 0, "bytes": 0},
            "host": {"adapters": 0, "bytes_used": 0, "bytes_budget": HOST_BUDGET_BYTES},
            "disk": {"named": 2, "known": 0},
        }
        assert memory["prefix_cache"]["hit_rate"] is None
        for rate in ("hit_rate", "mean_read_s", "mean_load_s"):
            assert memory["adapter_counters"][rate] is None
        assert memory["adapters"] == []


def test_pages_and_adapters_while_requests_run(
    start_server: StartServer, adapters_dir: Path
) -> None:
    engine = {"step_s": 0.02, "num_pages": 50}
    with start_server(engine=engine, adapter_dir=adapters_dir) as server:
        body = {"lora_name": "blue2", "lora_path": "blue", "pinned": True}
        assert server.post("/v1/load_lora_adapter", body).status_code == 200
        server.complete(model="blue", max_tokens=1)
        running = {"model": "red", "prompt": "abc", "max_tokens": 400, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=running):
            wait_until(lambda: memory_of(server)["requests"]["running"] == 1)
            memory = memory_of(server)
        pages = memory["pages"]
        cached = pages["cached"]
        parts = (pages["free"], cached["prefix"], cached["adapters"], pages["kv"])
        assert sum(parts) + pages["adapters_in_use"] == pages["total"] == 50
        assert (pages["kv"], pages["adapters_in_use"], pages["pinned"]) == (1, 7, 4)
        assert memory["fragmentation"] == {"adapter_fill": 0.75, "kv_fill": 0.5}
        # The biggest first.
        assert memory["adapters"] == [
            {
                "names": ["blue2", "blue"],
                "digest": digest_of(b"blue"),
                "device_state": "resident",
                "pages": 4,
                "prefix_pages": 1,
                "users": 0,
                "pinned": True,
                "host_bytes": 4 * PAGE_BYTES,
            },
            {
                "names": ["red"],
                "digest": digest_of(b"red"),
                "device_state": "resident",
                "pages": 3,
                "prefix_pages": 1,
                "users": 1,
                "pinned": False,
                "host_bytes": 3 * PAGE_BYTES,
            },
        ]


def test_the_metrics_say_the_same(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        for prompt in ("abcd", "abcd", "abce"):
            for model in ("red", "blue"):
                server.complete(prompt, model=model)
        server.post("/admin/v1/adapters/red:pin", {})
        memory, samples = memory_of(server), scrape(server)
    prefixes = tuple(
        f"motet_{each}"
        for each in ("pages", "adapter", "kv", "host", "prefix", "engine_output", "engine_prompt")
    )
    pages, tiers = memory["pages"], memory["tiers"]
    prefix, adapters = memory["prefix_cache"], memory["adapter_counters"]
    assert prefix["hit_rate"] == prefix["hit_tokens"] / prefix["lookup_tokens"] > 0
    assert adapters["hit_rate"] == 4 / 6
    assert (adapters["mean_read_s"], adapters["mean_load_s"]) == (0.25, 0.125)
    assert {
        "pages_total": pages["total"],
        "pages_free": pages["free"],
        "pages_cached": sum(pages["cached"].values()),
        "pages_cached_prefix": pages["cached"]["prefix"],
        "pages_kv": pages["kv"],
        "pages_adapters": pages["adapters_in_use"],
        "pages_pinned": pages["pinned"],
        "adapter_fill_ratio": memory["fragmentation"]["adapter_fill"],
        "kv_fill_ratio": memory["fragmentation"]["kv_fill"],
        "adapters_loaded": tiers["disk"]["named"],
        "adapters_known": tiers["disk"]["known"],
        "adapters_on_host": tiers["host"]["adapters"],
        "adapters_resident": tiers["device"]["adapters"],
        "host_adapter_bytes": tiers["host"]["bytes_used"],
        "host_adapter_budget_bytes": tiers["host"]["bytes_budget"],
        "prefix_lookup_tokens_total": prefix["lookup_tokens"],
        "prefix_hit_tokens_total": prefix["hit_tokens"],
        "prefix_evictions_total": prefix["evicted_pages"],
        "adapter_hits_total": adapters["hits"],
        "adapter_misses_total": adapters["misses"],
        "adapter_reads_total": adapters["reads"],
        "adapter_read_failures_total": adapters["read_failures"],
        "adapter_read_seconds_total": adapters["mean_read_s"] * adapters["reads"],
        "adapter_loads_total": adapters["loads"],
        "adapter_load_seconds_total": adapters["mean_load_s"] * adapters["loads"],
        "adapter_evictions_total": adapters["evictions"],
        "host_evictions_total": adapters["host_evictions"],
        "engine_output_tokens_total": memory["work"]["output_tokens"],
        "engine_prompt_tokens_total": memory["work"]["prompt_tokens"],
    } == {
        name.removeprefix("motet_"): value
        for (name, labels), value in samples.items()
        if name.startswith(prefixes) and not labels and name != "motet_pages_usage_ratio"
    }


def test_it_waits_for_an_engine_that_is_ready(start_server: StartServer) -> None:
    with start_server(engine={"start_s": 1}) as server:
        server.kill_engine()
        wait_until(lambda: not server.is_ready())
        response = server.get(PATH)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0


def test_adapters_are_ordered_by_all_that_they_take() -> None:
    def adapter(digest: str, pages: int, prefix: int, host: int) -> AdapterMemory:
        return AdapterMemory(
            digest=digest,
            device_state="resident" if pages else None,
            num_pages=pages,
            num_prefix_pages=prefix,
            num_users=0,
            is_pinned=False,
            host_bytes=host,
        )

    adapters = [
        adapter("host, small", 0, 0, 1),
        adapter("device", 2, 0, 0),
        adapter("host, large", 0, 0, 9),
        adapter("device, with prefixes", 2, 3, 0),
    ]
    report = MemoryReport("id", some_stats(), 5, adapters)
    memory = memory_json(report, ENGINE, policy="fcfs", num_names=7, names_of=lambda _: [])
    assert [each["digest"] for each in memory["adapters"]] == [
        "device, with prefixes",
        "device",
        "host, large",
        "host, small",
    ]
    assert memory["tiers"]["device"]["pages"] == 4
    assert memory["prefix_cache"]["base_pages"] == 5
