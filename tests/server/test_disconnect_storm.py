"""A thousand clients that leave at a random token, in all phases of a request."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer, wait_until
from tests.server.storm import Body, num_open_fds, storm
from tests.server.test_disconnect import request_ids, sent_request
from tests.server.test_metrics import scrape

NUM_CLIENTS = 1000


def bodies(num: int, seed: int) -> list[Body]:
    """Streamed or not, of the base model and of both adapters, one choice or some."""
    draw = random.Random(seed)
    return [
        {
            "model": draw.choice([BASE, "red", "blue"]),
            "prompt": "abcdefgh"[: draw.randint(1, 8)],
            "max_tokens": 400,
            "stream": draw.random() < 0.7,
            "n": draw.choice([1, 1, 1, 3]),
        }
        for _ in range(num)
    ]


def memory(server: RunningServer) -> dict[str, object]:
    """What of the memory report must be as it was: who uses what."""
    report = server.get("/admin/v1/memory").json()
    users = {each["names"][0]: each["users"] for each in report["adapters"]}
    in_use = {name: report["pages"][name] for name in ("kv", "adapters_in_use", "pinned")}
    queue = {name: report["requests"][name] for name in ("running", "waiting")}
    return {**users, **in_use, **queue}


@pytest.mark.slow
def test_a_thousand_clients_that_leave_leave_nothing_behind(
    start_server: StartServer, adapters_dir: Path
) -> None:
    # So few run at once that most of them wait in the queue.
    engine = {"step_s": 0.005, "max_running": 32}
    with start_server(engine=engine, adapter_dir=adapters_dir) as server:
        for model in (BASE, "red", "blue"):
            server.complete(model=model)
        before = memory(server)
        pids = (os.getpid(), server.engine_pid)  # the server is a thread of this process
        num_fds = [num_open_fds(pid) for pid in pids]
        asyncio.run(storm(server.url, bodies(NUM_CLIENTS, 1), num_at_once=150, seed=2))
        client = server.started.client
        wait_until(lambda: client.num_in_flight == 0)
        wait_until(lambda: memory(server) == before)
        wait_until(lambda: [num_open_fds(pid) for pid in pids] == num_fds)
        samples = scrape(server)
        active = [value for (name, _), value in samples.items() if name == "motet_active_requests"]
        assert active == [0] * len(active)
        for name in ("motet_running_requests", "motet_waiting_requests"):
            assert samples[name, ()] == 0
        left = {
            dict(labels)["model"]: value
            for (name, labels), value in samples.items()
            if name == "motet_requests_total" and dict(labels)["status"] == "499"
        }
        assert sum(left.values()) == NUM_CLIENTS
        # The engine was told of each that it had been given.
        added = request_ids(server, "AddRequest")
        finished = added - request_ids(server, "AbortRequest")
        assert len(finished) == 3  # those before the storm
        assert server.complete(model="red").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_its_adapter_is_loaded(
    start_server: StartServer, adapters_dir: Path, stream: bool
) -> None:
    with start_server(engine={"load_s": 0.5}, adapter_dir=adapters_dir) as server:
        with sent_request(server, model="red", stream=stream):
            wait_until(lambda: server.events("LoadAdapter"))
        wait_until(lambda: 'model="red",status="499"' in server.get("/metrics").text)
        assert server.complete(model="red").status_code == 200  # once it is loaded
        assert len(server.events("LoadAdapter")) == 1
        assert len(server.events("AddRequest")) == 1
        assert memory(server)["red"] == 0
