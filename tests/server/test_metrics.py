"""What /metrics counts."""

import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from motet.server.bounded_labels import OTHER
from motet.server.metrics import (
    MAX_HISTOGRAM_LABELS,
    MAX_MODEL_LABELS,
    Metrics,
)
from tests.server.conftest import StartServer
from tests.server.fake_engine import FAIL_TOKEN, QUEUE_S
from tests.server.running_server import BASE, RunningServer, wait_until
from tests.server.stats import some_snapshot, some_stats

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(server: RunningServer) -> Samples:
    return parsed(server.get("/metrics").text)


def test_requests_tokens_and_latencies(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        server.complete("abc", max_tokens=5)
        server.complete("abc", max_tokens=5, model=f"{BASE}:red", n=2)
        server.complete("abc", max_tokens=5, model="red", stream=True)
        server.complete(model="green")
        server.complete(model="red", n=99)
        server.complete(model="red", max_tokens=5000)
        server.get("/v1/models")
        samples = scrape(server)

    def value(name: str, **labels: str) -> float:
        return samples[name, tuple(sorted(labels.items()))]

    requests = {
        (dict(labels)["model"], dict(labels)["status"]): count
        for (name, labels), count in samples.items()
        if name == "motet_requests_total"
    }
    assert requests == {
        (BASE, "200"): 1,
        ("red", "200"): 2,
        ("", "404"): 1,
        ("", "400"): 1,
        ("red", "400"): 1,
    }
    assert value("motet_prompt_tokens_total", model="red") == 6
    assert value("motet_output_tokens_total", model="red") == 15
    assert value("motet_output_tokens_total", model=BASE) == 5
    assert value("motet_time_to_first_token_seconds_count", model="red") == 3
    assert value("motet_inter_token_latency_seconds_count", model="red") == 12
    assert value("motet_queue_time_seconds_sum", model="red") == 3 * QUEUE_S
    assert value("motet_request_duration_seconds_count", model="red") == 3
    assert value("motet_request_duration_seconds_count", model=BASE) == 1
    assert value("motet_active_requests", model="red") == 0
    assert value("motet_engine_output_tokens_total") == 20
    assert value("motet_engine_ready") == 1
    assert value("motet_adapters_loaded") == 2


def test_gauges_of_the_engine_and_the_line_that_gateways_route_by(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(engine={"step_s": 0.02, "num_pages": 50}, adapter_dir=adapters_dir) as server:
        body = {"model": "red", "prompt": "abc", "max_tokens": 400, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body):
            wait_until(lambda: scrape(server)["motet_running_requests", ()] == 1)
            samples = scrape(server)
        assert samples["motet_pages_total", ()] == 50
        assert samples["motet_pages_kv", ()] == 1
        assert samples["motet_pages_adapters", ()] == 3
        assert samples["motet_pages_cached_prefix", ()] == samples["motet_pages_cached", ()] == 1
        assert samples["motet_pages_free", ()] == 45
        assert samples["motet_pages_usage_ratio", ()] == 4 / 50
        labels = ("max_lora", "2"), ("running_lora_adapters", "red"), ("waiting_lora_adapters", "")
        assert abs(samples["vllm:lora_requests_info", labels] - time.time()) < 60
        wait_until(lambda: scrape(server)["motet_running_requests", ()] == 0)
        # One series at a time: those of the past would pile up.
        after = [labels for name, labels in scrape(server) if name == "vllm:lora_requests_info"]
        # It is on the device still, and so ready to be served.
        assert [dict(each)["running_lora_adapters"] for each in after] == ["red"]


def test_the_number_of_labels_is_bounded_and_less_so_for_histograms() -> None:
    metrics = Metrics()
    for index in range(MAX_MODEL_LABELS + 50):
        label = f"adapter-{index}"
        metrics.observe_request(label, 200, 0.1)
        metrics.add_tokens(label, 1, 2)
        metrics.add_active(label, 1)
        latencies = metrics.latencies_of(label)
        for histogram in (latencies.ttft_s, latencies.itl_s, latencies.queue_s):
            histogram.observe(0.1)
    metrics.update(some_snapshot())
    text = metrics.exposition().decode()
    samples = parsed(text)

    def models(name: str) -> set[str]:
        return {dict(labels)["model"] for sample, labels in samples if sample == name}

    for name in ("motet_output_tokens_total", "motet_requests_total", "motet_active_requests"):
        assert len(models(name)) == MAX_MODEL_LABELS + 1
    assert samples["motet_output_tokens_total", (("model", OTHER),)] == 100
    for name in (
        "motet_time_to_first_token_seconds_count",
        "motet_inter_token_latency_seconds_count",
        "motet_queue_time_seconds_count",
        "motet_request_duration_seconds_count",
    ):
        assert len(models(name)) == MAX_HISTOGRAM_LABELS + 1
        num_others = MAX_MODEL_LABELS + 50 - MAX_HISTOGRAM_LABELS
        assert samples[name, (("model", OTHER),)] == num_others
    assert len(samples) < 6000


def test_what_gateways_choose_a_server_by(start_server: StartServer) -> None:
    """The names and labels of the model server protocol, with vLLM's names for its metrics."""
    with start_server(engine={"step_s": 0.02, "num_pages": 50, "max_running": 1}) as server:
        body = {"model": BASE, "prompt": "abc", "max_tokens": 400, "n": 3, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body):
            wait_until(lambda: scrape(server)["motet_waiting_requests", ()] == 2)
            wait_until(lambda: scrape(server)["motet_queued_sequences", ()] == 2)
            samples = scrape(server)
    model = (("model_name", BASE),)
    assert samples["vllm:num_requests_running", model] == 1
    assert samples["vllm:num_requests_waiting", model] == 2
    assert samples["vllm:kv_cache_usage_perc", model] == 3 / 50
    assert samples["vllm:gpu_cache_usage_perc", model] == 3 / 50
    assert samples["vllm:cache_config_info", (("block_size", "16"), ("num_gpu_blocks", "50"))] == 1
    assert samples["motet_active_requests", (("model", BASE),)] == 1


def test_errors_are_counted_by_code_on_every_route(start_server: StartServer) -> None:
    with start_server() as server:
        server.complete(model="green")
        server.complete(n=99)
        server.complete(n=99)
        server.complete([FAIL_TOKEN, 50], stream=True)
        server.complete([50, FAIL_TOKEN])
        server.get("/v1/nowhere")
        server.post("/v1/unload_lora_adapter", {"lora_name": "green"})
        errors = {
            dict(labels)["code"]: value
            for (name, labels), value in scrape(server).items()
            if name == "motet_errors_total"
        }
    assert errors == {
        "model_not_found": 1,
        "invalid_value": 2,
        "internal_error": 2,
        "unknown_url": 1,
        "adapter_not_found": 1,
    }


def test_restarts_and_processes_are_seen(start_server: StartServer) -> None:
    with start_server() as server:
        assert scrape(server)["motet_engine_restarts_total", ()] == 0
        server.kill_engine()
        wait_until(lambda: len(server.events("Started")) == 2 and server.is_ready())
        samples = scrape(server)
        assert samples["motet_engine_restarts_total", ()] == 1
        assert samples["motet_engine_process_open_fds", ()] > 3
        assert samples["process_open_fds", ()] > 3
        wait_until(lambda: scrape(server)["motet_event_loop_lag_seconds_count", ()] > 1)


def test_a_name_is_listed_once_however_many_of_its_versions_are_there() -> None:
    metrics = Metrics()
    stats = some_stats(resident_adapters=["digest-1", "digest-2"])
    metrics.update(some_snapshot(stats=stats, names_of=lambda digest: ["red"]))
    (labels,) = [
        dict(labels)
        for name, labels in parsed(metrics.exposition().decode())
        if name == "vllm:lora_requests_info"
    ]
    assert labels["running_lora_adapters"] == "red"
