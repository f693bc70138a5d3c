"""An engine process without a model: the contract of `motet.engine.process`, scripted answers.

The base model repeats its prompt: output token i is prompt[i mod length]. An adapter repeats it
from another place, which its digest decides, so that an answer tells which weights it came from.
An adapter is a directory with a file `weights`; its content decides digest and number of pages,
and the content "bad" is refused. A prompt that holds FAIL_TOKEN fails.

Options that start with --fake are for tests alone. Every message received is appended to the
file --fake-log as a line of JSON.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import zmq

from motet.core.config import EngineConfig
from motet.core.messages import (
    AbortRequest,
    AdapterInfo,
    AdapterLoaded,
    AdapterRefused,
    AddRequest,
    EngineFailed,
    EngineReady,
    EngineStats,
    GetStats,
    LoadAdapter,
    ReleaseAdapter,
    RequestFailed,
    Shutdown,
    StepOutput,
    TokenOutput,
    decode_to_engine,
    encode,
)
from motet.core.shape import ModelShape

FAIL_TOKEN = 7
PAGE_SIZE = 16


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def answer_token(prompt: list[int], digest: str | None, position: int) -> int:
    shift = 0 if digest is None else int(digest[:8], 16)
    return prompt[(position + shift) % len(prompt)]


class FakeEngine:
    def __init__(self, socket: zmq.Socket, options: argparse.Namespace) -> None:
        self._socket = socket
        self._options = options
        self._running: dict[str, AddRequest] = {}
        self._num_sent: Counter[str] = Counter()
        self._references: Counter[str] = Counter()
        self._num_steps = 0

    def handle(self, message: object) -> None:
        match message:
            case AddRequest():
                known = message.digest is None or self._references[message.digest] > 0
                if not known:
                    self._fail(message, "adapter_not_found", "no such digest")
                elif FAIL_TOKEN in message.prompt_token_ids:
                    self._fail(message, "internal_error", "the fake engine was told to fail")
                else:
                    self._running[message.request_id] = message
            case AbortRequest():
                self._running.pop(message.request_id, None)
            case LoadAdapter():
                self._load(message)
            case ReleaseAdapter():
                self._references[message.digest] -= 1
            case GetStats():
                self._send(self._stats(message.operation_id))

    def step(self) -> None:
        self._num_steps += 1
        outputs = []
        # As many as fit, first come first served; the others wait.
        for request in list(self._running.values())[: self._options.fake_max_running]:
            outputs.append(self._next(request))
        if outputs:
            self._send(StepOutput(outputs))

    def _next(self, request: AddRequest) -> TokenOutput:
        request_id = request.request_id
        position = self._num_sent[request_id]
        token = answer_token(request.prompt_token_ids, request.digest, position)
        self._num_sent[request_id] += 1
        reason = None
        if token in request.sampling.stop_token_ids:
            reason = "stop"
        elif self._num_sent[request_id] == request.sampling.max_tokens:
            reason = "length"
        if reason is not None:
            del self._running[request_id]
        return TokenOutput(request_id, [token], reason)

    def _load(self, message: LoadAdapter) -> None:
        weights = Path(message.path) / "weights"
        time.sleep(self._options.fake_load_s)
        content = weights.read_bytes() if weights.is_file() else b"bad"
        if content == b"bad":
            refusal = AdapterRefused(message.operation_id, "invalid_adapter", "bad weights")
            self._send(refusal)
            return
        digest = digest_of(content)
        self._references[digest] += 1
        info = AdapterInfo(digest, 8, ["q", "v"], 1000, len(content))
        self._send(AdapterLoaded(message.operation_id, info))

    def _stats(self, operation_id: str) -> EngineStats:
        digests = [each.digest for each in self._running.values() if each.digest is not None]
        limit = self._options.fake_max_running
        return EngineStats(
            operation_id=operation_id,
            num_pages_total=self._options.fake_num_pages,
            num_pages_free=self._options.fake_num_pages - len(self._running),
            num_pages_cached=0,
            num_pages_kv=len(self._running),
            num_pages_adapters_in_use=0,
            num_running=min(limit, len(self._running)),
            num_waiting=max(0, len(self._running) - limit),
            num_preemptions=0,
            num_steps=self._num_steps,
            num_prompt_tokens=0,
            num_output_tokens=sum(self._num_sent.values()),
            num_adapter_loads=0,
            num_adapter_evictions=0,
            running_adapters=sorted(set(digests)),
            waiting_adapters=[],
            resident_adapters=[key for key, count in self._references.items() if count > 0],
        )

    def _fail(self, request: AddRequest, code: str, text: str) -> None:
        self._send(RequestFailed(request.request_id, code, text))

    def _send(self, message: object) -> None:
        self._socket.send(encode(message))

    @property
    def is_idle(self) -> bool:
        return not self._running


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--fake-log", type=Path, required=True)
    parser.add_argument("--fake-step-s", type=float, default=0.001)
    parser.add_argument("--fake-load-s", type=float, default=0.0)
    parser.add_argument("--fake-num-pages", type=int, default=1000)
    parser.add_argument("--fake-max-running", type=int, default=64)
    parser.add_argument("--fake-max-model-len", type=int, default=512)
    parser.add_argument("--fake-vocab-size", type=int, default=259)
    parser.add_argument("--fake-start-s", type=float, default=0.0)
    parser.add_argument("--fake-start-error")
    parser.add_argument("--fake-start-error-file", type=Path, help="an error while it exists")
    parser.add_argument("--fake-exit-at-start", type=int)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    if options.fake_exit_at_start is not None:
        sys.exit(options.fake_exit_at_start)
    socket = zmq.Context.instance().socket(zmq.PAIR)
    socket.set_hwm(0)
    socket.connect(options.socket)

    def log(kind: str, **fields: object) -> None:
        with options.fake_log.open("a") as file:
            file.write(json.dumps({"kind": kind, "pid": os.getpid(), **fields}) + "\n")

    log("Started", config=msgspec.to_builtins(config))
    error = options.fake_start_error
    if options.fake_start_error_file is not None and options.fake_start_error_file.exists():
        error = options.fake_start_error_file.read_text()
    if error is not None:
        socket.send(encode(EngineFailed(error, "invalid_model")))
        socket.close(linger=5000)
        return
    time.sleep(options.fake_start_s)
    shape = ModelShape(2, 64, 128, 4, 2, 16, options.fake_vocab_size)
    ready = EngineReady(
        model_name=config.model_name or "fake",
        shape=shape,
        dtype="float32",
        device="cpu",
        max_model_len=config.max_model_len or options.fake_max_model_len,
        page_size=PAGE_SIZE,
        page_bytes=4096,
        num_pages=options.fake_num_pages,
    )
    socket.send(encode(ready))
    engine = FakeEngine(socket, options)
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    while True:
        timeout_ms = None if engine.is_idle else options.fake_step_s * 1000
        ready_now = dict(poller.poll(timeout_ms))
        if sys.stdin.fileno() in ready_now:
            log("Orphaned")
            return
        while socket.poll(0):
            message = decode_to_engine(socket.recv())
            log(type(message).__name__, **msgspec.to_builtins(message))
            if isinstance(message, Shutdown):
                return
            engine.handle(message)
        engine.step()


if __name__ == "__main__":
    main()
