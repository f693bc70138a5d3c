"""GET /admin/v1/events: what happens, in order, and nothing lost over a reconnect."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from motet.server import events as events_module
from motet.server.events import Event, EventLog
from tests.server.conftest import StartServer
from tests.server.running_server import RunningServer
from tests.server.test_admin_adapters import ADAPTERS, alias, create, delete, post

PATH = "/admin/v1/events"


Told = tuple[str, str, Any]  # id, kind, data


@contextmanager
def watching(server: RunningServer, last_id: str | None = None) -> Iterator[Iterator[Told]]:
    """Events as they come; they are followed from when the block begins."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with server.http.stream("GET", PATH, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert next(lines).startswith(":")
        yield parsed(lines)


def parsed(lines: Iterator[str]) -> Iterator[Told]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name] = value
        if name == "data":
            yield fields["id"], fields["event"], json.loads(value)


def test_what_happens_is_told_in_order(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_roots=(adapters_dir,)) as server:
        create(server, "before", "red")
        with watching(server) as coming:
            create(server, "mine", "red")
            create(server, "mine", "blue")
            alias(server, "mine", {"1": 1, "2": 1})
            post(server, "mine", "pin")
            delete(server, "mine")
            events = list(islice(coming, 18))
        told = [(kind, data) for _, kind, data in events]
        assert [data["state"] for kind, data in told if kind == "version"] == [
            *("pending", "validating", "loading", "ready"),
            *("pending", "validating", "loading", "ready"),
            *("draining", "draining", "deleted", "deleted"),
        ]
        weights = [data["weights"] for kind, data in told if kind == "alias"]
        assert weights == [{"1": 1.0}, {"2": 1.0}, {"1": 0.5, "2": 0.5}, None]
        assert [data["pinned"] for kind, data in told if kind == "pin"] == [True, False]
        assert {data["adapter"] for _, data in told} == {"mine"}
        # Who comes back gets the rest; whoever has an id of another run gets all.
        with watching(server, events[9][0]) as coming:
            assert list(islice(coming, 8)) == events[10:]
        with watching(server, "feed-12") as coming:
            everything = list(islice(coming, 23))
        assert everything[5:] == events
        assert everything[0][2]["adapter"] == "before"


def test_watchers_do_not_hold_a_shutdown_up(start_server: StartServer) -> None:
    with start_server(drain_timeout_s=300) as server, watching(server) as coming:
        server.started.stop()
        assert list(coming) == []


def test_only_so_many_events_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        log = EventLog()
        start = log.position(None)
        for index in range(events_module.MAX_EVENTS + 10):
            log.add("version", {"index": index})
        log.close()
        seen = [event async for event in log.after(start)]
        assert [each.number for each in seen] == list(range(11, events_module.MAX_EVENTS + 11))
        run = log.id_of(Event(1, "", {})).split("-")[0]
        for garbage in ("", "-", "x-1", f"{run}-x", f"{run}-", f"{run}-{'9' * 5000}"):
            assert log.position(garbage) == 0

    asyncio.run(work())


def test_every_change_leaves_an_audit_line(start_server: StartServer, adapters_dir: Path) -> None:
    config = structlog.get_config()
    try:
        with capture_logs() as logs, start_server(adapter_roots=(adapters_dir,)) as server:
            create(server, "mine", "red")
            create(server, "mine", "nothing")
            alias(server, "mine", {"7": 1})
            for verb in ("pin", "unpin", "warm", "rollback"):
                post(server, "mine", verb)
            delete(server, "mine")
            body = {"lora_name": "mine", "lora_path": "red"}
            server.post("/v1/load_lora_adapter", body)
            server.post("/unload_lora_adapter", {"lora_name": "mine"})
            server.get(ADAPTERS)
    finally:
        structlog.configure(**config)
    lines = [line for line in logs if line["event"] == "audit"]
    assert [(line["action"], line["outcome"]) for line in lines] == [
        ("adapter.create", "ok"),
        ("adapter.create", "adapter_not_found"),
        ("adapter.alias", "version_not_found"),
        ("adapter.pin", "ok"),
        ("adapter.unpin", "ok"),
        ("adapter.warm", "ok"),
        ("adapter.rollback", "nothing_to_roll_back"),
        ("adapter.delete", "ok"),
        ("adapter.load", "ok"),
        ("adapter.delete", "ok"),
    ]
    assert {line["adapter"] for line in lines} == {"mine"}
    assert all(line["request_id"] and "key_id" in line for line in lines)
