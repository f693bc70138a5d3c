"""A real server in a thread, over a fake engine in a process, for tests."""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from motet.core.config import EngineConfig
from motet.server.config import ServeConfig
from motet.server.run import Started, serve

BASE = "tiny"
_START_TIMEOUT_S = 60


def fake_engine_command(log: Path, **options: object) -> list[str]:
    """The fake engine; `step_s=0.1` becomes `--fake-step-s 0.1`."""
    flags = [
        part
        for name, value in options.items()
        for part in (f"--fake-{name.replace('_', '-')}", str(value))
    ]
    return [sys.executable, "-m", "tests.server.fake_engine", "--fake-log", str(log), *flags]


@dataclass
class RunningServer:
    """What a test needs of a server."""

    url: str
    started: Started
    log: Path
    http: httpx2.Client

    def post(self, path: str, body: object = None, **kwargs: Any) -> httpx2.Response:
        if body is not None:
            kwargs["json"] = body
        return self.http.post(path, **kwargs)

    def get(self, path: str, **kwargs: Any) -> httpx2.Response:
        return self.http.get(path, **kwargs)

    def complete(self, prompt: object = "abc", **params: object) -> httpx2.Response:
        body = {"model": BASE, "prompt": prompt, "max_tokens": 8, **params}
        return self.post("/v1/completions", body)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Messages of this kind that the engine has received, and its own notes."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def kill_engine(self, by: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.engine_pid, by)

    @property
    def engine_pid(self) -> int:
        pid: int = self.events("Started")[-1]["pid"]
        return pid

    def is_ready(self) -> bool:
        return self.get("/ready").status_code == 200


def wait_until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@contextmanager
def running_server(
    model_dir: Path,
    log: Path,
    engine: dict[str, object] | None = None,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[RunningServer]:
    """Serve on a free port until the block ends.

    Args:
        engine: options of the fake engine.
        config: options of any engine, as in EngineConfig.
        options: those of ServeConfig.
    """
    engine_config = EngineConfig(model=str(model_dir), **{"model_name": BASE, **(config or {})})
    serve_config = ServeConfig(engine=engine_config, port=0, **options)
    is_started = threading.Event()
    found: list[Started] = []
    errors: list[BaseException] = []

    def on_started(started: Started) -> None:
        found.append(started)
        is_started.set()

    def work() -> None:
        command = fake_engine_command(log, **(engine or {}))
        try:
            asyncio.run(serve(serve_config, on_started=on_started, engine_command=command))
        except BaseException as error:  # shown to the test, whatever it is
            errors.append(error)
        finally:
            is_started.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert is_started.wait(_START_TIMEOUT_S)
    if errors:
        raise errors[0]
    try:
        with httpx2.Client(base_url=found[0].url, timeout=30) as http:
            yield RunningServer(found[0].url, found[0], log, http)
    finally:
        found[0].stop()
        thread.join(_START_TIMEOUT_S)
    assert not thread.is_alive()
    assert not errors, errors
