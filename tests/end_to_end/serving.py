"""Starts `motet serve` as a user does, and talks to it over loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

START_LIMIT_S = 300
REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE_ADAPTERS = REPOSITORY / "examples" / "adapters"


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=120)

    def gauge(self, name: str) -> float:
        """The value of a metric without labels."""
        text = httpx2.get(f"{self.url}/metrics", timeout=30).text
        lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        assert lines, f"/metrics has no {name}:\n{text}"
        return float(lines[0].split()[-1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(log: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """Run `motet serve` with these arguments on a free port until the block ends."""
    port = free_port()
    command = [sys.executable, "-m", "motet.server.cli", "serve", *arguments, "--port", str(port)]
    with log.open("w") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": str(log.parent / "state"), **(env or {})},
        )
        server = Server(f"http://127.0.0.1:{port}", process, log)
        try:
            wait_until_ready(server)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log.read_text()
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{server.url}/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"not ready after {START_LIMIT_S} s:\n{server.log.read_text()}")


def wait_until_idle(server: Server, limit_s: float = 60) -> None:
    """Until no request runs or waits; then the pool must be whole."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if server.gauge("motet_running_requests") == 0 == server.gauge("motet_waiting_requests"):
            break
        time.sleep(0.1)
    with server.client() as http:  # the engine checks its whole pool for this answer
        pages = http.get("/admin/v1/memory").raise_for_status().json()["pages"]
    assert pages["free"] + sum(pages["cached"].values()) == pages["total"]
