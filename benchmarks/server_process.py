"""A server of Motet's as a process on loopback: started, asked, stopped.

Owns: the process, its port and log, and plain requests to it.
Does not know: what is measured, nor how streams are timed.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

MOTET_SERVE = (sys.executable, "-m", "motet.server.cli", "serve")

_START_TIMEOUT_S = 600
_STOP_TIMEOUT_S = 60
_REQUEST_TIMEOUT_S = 1800
_POLL_S = 0.05
_LOG_TAIL = 4000


class ServerProcess:
    """A server that has become ready.

    Args:
        command: the program and its options; `--port` is added.
        log: file for the server's output.
        api_key: for plain requests; None if it asks for none.

    Attributes:
        pid: of the API process, whose child the engine is.
        startup_s: from the start of the process to the first 200 of /ready.

    Raises:
        RuntimeError: it does not become ready; with the end of its log.
    """

    def __init__(self, command: Sequence[str], log: Path, api_key: str | None = None) -> None:
        self.port = _free_port()
        self._log = log
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        # A registry of its own, or the port's last server would leave its adapters behind.
        self._state = tempfile.TemporaryDirectory(prefix="motet-state-")
        started_s = time.perf_counter()
        with log.open("w") as sink:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "XDG_STATE_HOME": self._state.name},
            )
        self.pid = self._process.pid
        try:
            self._wait_until_ready()
            self.startup_s = time.perf_counter() - started_s
            self.base_name: str = self.get_json("/v1/models")["data"][0]["id"]
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, **body: Any) -> http.client.HTTPResponse:
        """Send one request on a new connection. Raises RuntimeError unless it is answered 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_REQUEST_TIMEOUT_S)
        connection.request(
            "POST",
            path,
            body=json.dumps(body),
            # One request per connection, so that reading to the end also closes it.
            headers={
                "Content-Type": "application/json",
                "Connection": "close",
                **self._headers,
            },
        )
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{path} answered {response.status}: {response.read().decode()}")
        return response

    def load_adapter(self, name: str, directory: Path) -> None:
        """Load an adapter from below the server's adapter roots. Raises RuntimeError if refused."""
        self.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(directory)).read()

    def pin_adapter(self, name: str) -> None:
        """Bring an adapter to the device, to stay. Raises RuntimeError if it is refused."""
        self.post(f"/admin/v1/adapters/{name}:pin").read()

    def unload_adapter(self, name: str) -> None:
        """Have the server forget an adapter's name. Raises RuntimeError if it has none such."""
        self.post("/v1/unload_lora_adapter", lora_name=name).read()

    def get_json(self, path: str) -> Any:
        """What a GET answers. Raises RuntimeError unless it is answered 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise RuntimeError(f"{path} answered {response.status}: {content.decode()}")
            return json.loads(content)
        finally:
            connection.close()

    def close(self) -> None:
        """Stop the server, drained if it can be."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._state.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                break
            try:
                self.get_json("/ready")
            except (OSError, http.client.HTTPException, RuntimeError):
                time.sleep(_POLL_S)
            else:
                return
        raise RuntimeError(f"the server did not get ready:\n{self._log.read_text()[-_LOG_TAIL:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
