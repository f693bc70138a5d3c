"""`motet serve` as one side of the throughput comparison: the server that users get, over HTTP.

Owns: the server with all adapters loaded, and the concurrent streams to it.
Does not know: what it is compared with.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.server_process import MOTET_SERVE, ServerProcess
from benchmarks.work import Outcome, Round
from motet.bench.sse import Stream, read_stream


class MotetSide:
    """A server on loopback with the base model in float32 and all adapters loaded.

    Args:
        model_dir: a Hugging Face directory.
        adapters: PEFT directories by name.
        num_threads: CPU threads of the engine's step.
        log: file for the server's output.

    Raises:
        RuntimeError: the server does not become ready, or refuses an adapter.
    """

    def __init__(
        self, model_dir: Path, adapters: Mapping[str, Path], num_threads: int, log: Path
    ) -> None:
        command = [*MOTET_SERVE, str(model_dir), "--threads", str(num_threads)]
        command += ["--device", "cpu", "--dtype", "float32"]
        for root in sorted({directory.parent for directory in adapters.values()}):
            command += ["--adapter-root", str(root)]
        self._server = ServerProcess(command, log)
        try:
            for name, directory in adapters.items():
                self._server.load_adapter(name, directory)
        except BaseException:
            self._server.close()
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    def _stream(self, adapter: str | None, prompt: list[int], num_output_tokens: int) -> Stream:
        start_s = time.perf_counter()
        response = self._server.post(
            "/v1/completions",
            model=adapter or self._server.base_name,
            prompt=prompt,
            max_tokens=num_output_tokens,
            temperature=0,
            ignore_eos=True,
            stream=True,
            stream_options={"include_usage": True},
        )
        return read_stream(response, start_s)
