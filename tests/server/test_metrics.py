"""What /metrics counts."""

import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from motet.server.metrics import MAX_ADAPTER_LABELS, OTHER_ADAPTERS, Metrics
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer, wait_until

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
    assert value("motet_time_to_first_token_seconds_count") == 4
    assert value("motet_inter_token_latency_seconds_count") == 16
    assert value("motet_request_duration_seconds_count") == 6
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
        assert [dict(each)["running_lora_adapters"] for each in after] == [""]


def test_the_number_of_adapter_labels_is_bounded() -> None:
    metrics = Metrics()
    for index in range(MAX_ADAPTER_LABELS + 50):
        metrics.observe_request(f"adapter-{index}", 200, 0.1)
        metrics.add_tokens(f"adapter-{index}", 1, 2)
    text = metrics.render(None, is_ready=True, num_adapters=0, names_of=lambda _: []).decode()
    samples = parsed(text)
    models = {
        dict(labels)["model"] for name, labels in samples if name == "motet_output_tokens_total"
    }
    assert len(models) == MAX_ADAPTER_LABELS + 1
    assert samples["motet_output_tokens_total", (("model", OTHER_ADAPTERS),)] == 100
