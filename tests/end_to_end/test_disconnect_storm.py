"""Clients that leave at a random moment, on the real default model: nothing of them may be left."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.end_to_end.serving import EXAMPLE_ADAPTERS, Server, serve, wait_until_idle
from tests.server.storm import Body, storm

pytestmark = pytest.mark.slow

NUM_CLIENTS = 40
CANARY = "canary-51c9"
FDS = ("process_open_fds", "motet_engine_process_open_fds")


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


def wait_until_fds_are(server: Server, expected: list[float]) -> None:
    deadline = time.monotonic() + 30
    while (found := [server.gauge(name) for name in FDS]) != expected:
        assert time.monotonic() < deadline, (found, expected)
        time.sleep(0.2)


def test_a_storm_of_leaving_clients_leaves_nothing_behind(tmp_path: Path) -> None:
    arguments = ["--adapter-dir", str(EXAMPLE_ADAPTERS), "--pool-memory", "512MiB"]
    with serve(tmp_path / "log", *arguments) as server:
        with server.client() as http:
            models = [model["id"] for model in http.get("/v1/models").json()["data"]]
            for model in models:  # every adapter is loaded, and every kernel compiled
                body = {"model": model, "prompt": "Hello", "max_tokens": 2}
                http.post("/v1/completions", json=body).raise_for_status()
        wait_until_idle(server)
        num_fds = [server.gauge(name) for name in FDS]
        asyncio.run(storm(server.url, bodies(models), num_at_once=20, seed=2))
        wait_until_idle(server)
        wait_until_fds_are(server, num_fds)
        with server.client() as http:
            report = http.get("/admin/v1/memory").raise_for_status().json()
            assert {each["users"] for each in report["adapters"]} == {0}
            assert report["pages"]["kv"] == report["pages"]["adapters_in_use"] == 0
            body = {"model": models[1], "prompt": CANARY, "max_tokens": 2}
            assert http.post("/v1/completions", json=body).status_code == 200
        assert CANARY not in server.log.read_text()
