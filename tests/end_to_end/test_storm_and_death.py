"""The default model in real processes: clients that leave at any moment, and a killed engine."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.end_to_end.serving import EXAMPLE_ADAPTERS, Server, serve, wait_until_idle
from tests.server.storm import Body, storm

pytestmark = pytest.mark.slow

NUM_CLIENTS = 40
CANARY = "canary-51c9"
FDS = ("process_open_fds", "motet_engine_process_open_fds")
PINNED = "pinned"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    adapter = min(EXAMPLE_ADAPTERS.glob("*/adapter_config.json")).parent
    arguments = ["--adapter-dir", str(EXAMPLE_ADAPTERS), "--adapter", f"{PINNED}={adapter}"]
    log = tmp_path_factory.mktemp("log") / "log"
    with serve(log, *arguments, "--pool-memory", "512MiB") as running:
        yield running


def bodies(models: list[str]) -> list[Body]:
    """Prompts of one chunk and of several, so that some leave in prefill."""
    draw = random.Random(1)
    return [
        {
            "model": draw.choice(models),
            "prompt": f"{CANARY} {draw.random()} " * draw.choice([1, 5, 20]),
            "max_tokens": 500,
            "ignore_eos": True,
            "stream": draw.random() < 0.7,
            "user": CANARY,
        }
        for _ in range(NUM_CLIENTS)
    ]


def wait_until(condition: Callable[[], object], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.2)


def open_fds(server: Server) -> list[float]:
    return [server.gauge(name) for name in FDS]


def test_a_storm_of_leaving_clients_leaves_nothing_behind(server: Server) -> None:
    with server.client() as http:
        models = [model["id"] for model in http.get("/v1/models").json()["data"]]
        for model in models:  # every adapter is loaded, and every kernel compiled
            body = {"model": model, "prompt": "Hello", "max_tokens": 2}
            http.post("/v1/completions", json=body).raise_for_status()
    wait_until_idle(server)
    before = open_fds(server)
    asyncio.run(storm(server.url, bodies(models), num_at_once=20, seed=2))
    wait_until_idle(server)
    wait_until(lambda: open_fds(server) == before, 30)
    with server.client() as http:
        report = http.get("/admin/v1/memory").raise_for_status().json()
        assert {each["users"] for each in report["adapters"]} == {0}
        assert report["pages"]["kv"] == report["pages"]["adapters_in_use"] == 0
    assert CANARY not in server.log.read_text()


def test_a_killed_engine_comes_back_with_its_adapters(server: Server) -> None:
    greedy = {"model": PINNED, "prompt": "Hello", "max_tokens": 8, "temperature": 0}
    with server.client() as http:
        http.post(f"/admin/v1/adapters/{PINNED}:pin", json={}).raise_for_status()
        before = http.post("/v1/completions", json=greedy).raise_for_status().json()["choices"]
        endless = greedy | {"max_tokens": 2000, "ignore_eos": True, "stream": True}
        with http.stream("POST", "/v1/completions", json=endless) as stream:
            lines = (line for line in stream.iter_lines() if line)
            next(lines)
            (engine,) = psutil.Process(server.process.pid).children()
            os.kill(engine.pid, signal.SIGKILL)
            *_, error, end = lines
        assert end == "data: [DONE]"
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_dead"
        assert http.get("/ready").status_code == 503
        wait_until(lambda: http.get("/ready").status_code == 200)
        report = http.get("/admin/v1/memory").raise_for_status().json()
        (pinned,) = (each for each in report["adapters"] if each["pinned"])
        assert PINNED in pinned["names"]
        assert pinned["device_state"] == "resident"
        after = http.post("/v1/completions", json=greedy).raise_for_status().json()["choices"]
        assert after == before
    assert server.gauge("motet_engine_restarts_total") == 1
