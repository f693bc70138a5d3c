"""`motet serve` as one side of the throughput comparison: the server that users get, over HTTP.

Owns: the server process and the concurrent streams to it.
Does not know: what it is compared with.
"""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.sse import Stream, read_stream
from benchmarks.work import Outcome, Round

_START_TIMEOUT_S = 600
_STOP_TIMEOUT_S = 60
_REQUEST_TIMEOUT_S = 1800


class MotetSide:
    """A server on loopback with the base model in float32 and all adapters loaded.

    Args:
        model_dir: a Hugging Face directory.
        adapters: PEFT directories by name, all in one directory.
        num_threads: CPU threads of the engine's step.
        log: file for the server's output.

    Raises:
        RuntimeError: the server does not become ready, or refuses an adapter.
    """

    def __init__(
        self, model_dir: Path, adapters: Mapping[str, Path], num_threads: int, log: Path
    ) -> None:
        self._port = _free_port()
        self._log = log
        command = [sys.executable, "-m", "motet.server.cli", "serve", str(model_dir)]
        command += ["--port", str(self._port), "--threads", str(num_threads)]
        command += ["--device", "cpu", "--dtype", "float32"]
        for root in sorted({directory.parent for directory in adapters.values()}):
            command += ["--adapter-root", str(root)]
        with log.open("w") as sink:
            self._process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        try:
            self._wait_until_ready()
            for name, directory in adapters.items():
                self._post("/v1/load_lora_adapter", lora_name=name, lora_path=str(directory)).read()
            self._base_name: str = self._get_json("/v1/models")["data"][0]["id"]
        except BaseException:
            self.close()
            raise

    def run(self, work: Round) -> Outcome:
        """Stream all requests at once, each over a connection of its own.

        The wall time is from the first request's first byte to the last stream's last one.
        """
        num_requests = len(work.prompts)
        with ThreadPoolExecutor(max_workers=num_requests) as pool:
            start_s = time.perf_counter()
            streams = list(
                pool.map(
                    lambda index: self._stream(
                        work.adapters[index], work.prompts[index], work.num_output_tokens
                    ),
                    range(num_requests),
                )
            )
            elapsed_s = time.perf_counter() - start_s
        return Outcome(
            elapsed_s=elapsed_s,
            num_output_tokens=sum(stream.num_output_tokens for stream in streams),
            texts=[stream.text for stream in streams],
        )

    def close(self) -> None:
        """Stop the server, drained if it can be."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _stream(self, adapter: str | None, prompt: list[int], num_output_tokens: int) -> Stream:
        start_s = time.perf_counter()
        response = self._post(
            "/v1/completions",
            model=adapter or self._base_name,
            prompt=prompt,
            max_tokens=num_output_tokens,
            temperature=0,
            ignore_eos=True,
            stream=True,
            stream_options={"include_usage": True},
        )
        return read_stream(response, start_s)

    def _post(self, path: str, **body: Any) -> http.client.HTTPResponse:
        """Send one request on a new connection. Raises RuntimeError unless it is answered 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_REQUEST_TIMEOUT_S)
        connection.request(
            "POST",
            path,
            body=json.dumps(body),
            # One request per connection, so that reading to the end also closes it.
            headers={"Content-Type": "application/json", "Connection": "close"},
        )
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{path} answered {response.status}: {response.read().decode()}")
        return response

    def _get_json(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise RuntimeError(f"{path} answered {response.status}: {content.decode()}")
            return json.loads(content)
        finally:
            connection.close()

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                break
            try:
                self._get_json("/ready")
            except (OSError, http.client.HTTPException, RuntimeError):
                time.sleep(0.2)
            else:
                return
        raise RuntimeError(f"the server did not get ready:\n{self._log.read_text()[-4000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
