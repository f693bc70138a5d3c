"""An engine process without a model: the contract of `motet.engine.process`, scripted answers.

The base model repeats its prompt: output token i is prompt[i mod length]. An adapter repeats it
from another place, which its digest decides, so that an answer tells which weights it came from.
An adapter is a directory with a file `weights`; its content decides digest and number of pages,
and the content "bad" is refused. A prompt that holds FAIL_TOKEN fails, one that holds
UNAVAILABLE_TOKEN fails as if its adapter could not be brought back, and one that holds REFUSE_TOKEN
is refused as by a scheduling policy, before it runs. One that holds LONG_STEP_TOKEN keeps the
engine busy for a while before it looks at any message again.

A routed set is a directory with a `router_config.json`, whose text and experts decide its digest.
It is refused if an expert has another digest than it says, or if it is for another base. Token i
of its answers came from expert i mod n by 3/4, and from the others in equal parts
(`scripted_routing`).

Log probabilities are scripted (`scripted_logprobs`): at place i of a sequence the token is the
(i + seed) mod 3 + 1st likeliest.

An adapter becomes resident with its first request or its pin, and leaves, idle, when resident
ones fill more than half the pool. The prefix cache has the last prompts of each adapter and
tenant; a prompt finds what it has in common with the last of its own, but for its last token.

With --fake-script-token, a prompt that holds this token twice is answered with what is between its
last two, and then the end of the answer.

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
from collections.abc import Iterable
from pathlib import Path

import msgspec
import zmq

from motet.core.config import EngineConfig
from motet.core.messages import (
    AbortRequest,
    AdapterInfo,
    AdapterLoaded,
    AdapterMemory,
    AdapterPinned,
    AdapterRefused,
    AddRequest,
    EngineFailed,
    EngineReady,
    EngineStats,
    GetMemory,
    GetStats,
    LoadAdapter,
    MemoryReport,
    PinAdapter,
    Ping,
    Pong,
    ReleaseAdapter,
    RequestFailed,
    RoutedSetInfo,
    Shutdown,
    StepOutput,
    TokenLogprobs,
    TokenOutput,
    UnpinAdapter,
    decode_to_engine,
    encode,
)
from motet.core.shape import ModelShape

FAIL_TOKEN = 7
UNAVAILABLE_TOKEN = 8
LONG_STEP_TOKEN = 9
REFUSE_TOKEN = 205  # with the tokenizer of bytes, that of "\x11"
HIDDEN_SIZE = 64
MAX_RANK = 8
PAGE_SIZE = 16
PAGE_BYTES = 4096
HOST_BUDGET_BYTES = 1 << 23
QUEUE_S = 0.125  # what it says of every request
RETRY_AFTER_S = 7.25  # and of every one that it refuses


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def answer_token(prompt: list[int], digest: str | None, position: int) -> int:
    shift = 0 if digest is None else int(digest[:8], 16)
    return prompt[(position + shift) % len(prompt)]


def digests_of(request: AddRequest) -> list[str]:
    """What it needs on the device: of a composition its parts, for the sum itself is nowhere."""
    if request.parts:
        return [part.digest for part in request.parts]
    return [] if request.digest is None else [request.digest]


def scripted_logprobs(
    token: int, place: int, num_top: int, *, vocab_size: int, seed: int = 0
) -> TokenLogprobs:
    """Of a token at this place of a sequence: its rank r has log probability -r / 4."""
    rank = (place + seed) % 3 + 1
    others = [(token + 1 + each) % vocab_size for each in range(num_top)]
    ids = [*others[: rank - 1], token, *others[rank - 1 :]][:num_top]
    return TokenLogprobs(token, -rank / 4, rank, ids, [-(each + 1) / 4 for each in range(num_top)])


def scripted_routing(place: int, num_gates: int) -> list[float]:
    """Of token `place` of an answer."""
    others = 0.25 / (num_gates - 1) if num_gates > 1 else 0.0
    return [0.75 if gate == place % num_gates else others for gate in range(num_gates)]


def script_of(prompt: list[int], marker: int | None) -> list[int] | None:
    places = [place for place, token in enumerate(prompt) if token == marker]
    return prompt[places[-2] + 1 : places[-1]] if len(places) >= 2 else None


def weights_in(directory: Path) -> bytes:
    weights = directory / "weights"
    if not weights.exists():  # the name that it has when it comes from elsewhere
        weights = weights.with_name("adapter_model.safetensors")
    return weights.read_bytes() if weights.is_file() else b"bad"


def set_content(message: LoadAdapter) -> bytes:
    """What the digest of a routed set is of; b"bad" if it would be refused."""
    config = json.loads((Path(message.path) / "router_config.json").read_bytes())
    refs = [*config["experts"], *config.get("shared", [])]
    experts = [weights_in(Path(path)) for path in message.expert_paths]
    is_of_base = config["base_model"]["hidden_size"] == HIDDEN_SIZE
    if not is_of_base or [digest_of(each) for each in experts] != [ref["digest"] for ref in refs]:
        return b"bad"
    return json.dumps([config["method"], config["top_k"]]).encode() + b"".join(experts)


def routed_info(directory: Path) -> RoutedSetInfo:
    config = json.loads((directory / "router_config.json").read_bytes())
    return RoutedSetInfo(
        config["method"],
        [each["digest"] for each in config["experts"]],
        [each["name"] for each in config["experts"]],
        [each["digest"] for each in config.get("shared", [])],
        by_rank=config["method"] in ("smora", "mora"),
    )


class FakeEngine:
    def __init__(
        self, socket: zmq.Socket, options: argparse.Namespace, config: EngineConfig
    ) -> None:
        self._socket = socket
        self._options = options
        self._config = config
        self._running: dict[str, AddRequest] = {}
        self._refused: dict[str, float] = {}  # ids, and when they are told
        self._num_sent: Counter[str] = Counter()
        self._num_cached: dict[str, int] = {}
        self._references: Counter[str] = Counter()
        self._pins: Counter[str] = Counter()
        self._num_pages: dict[str, int] = {}  # of each digest ever loaded
        self._routed: dict[str, RoutedSetInfo] = {}
        self._resident: dict[str, None] = {}  # the longest unused first
        self._prefixes: dict[tuple[str | None, str | None], list[int]] = {}
        self._counts: Counter[str] = Counter()  # of EngineStats' fields

    def handle(self, message: object) -> None:
        match message:
            case AddRequest():
                if LONG_STEP_TOKEN in message.prompt_token_ids:
                    time.sleep(self._options.fake_long_step_s)
                self._add(message)
            case AbortRequest():
                self._running.pop(message.request_id, None)
                self._refused.pop(message.request_id, None)
            case LoadAdapter():
                self._load(message)
            case ReleaseAdapter():
                self._references[message.digest] -= 1
            case PinAdapter():
                self._pin(message)
            case UnpinAdapter():
                self._pins[message.digest] -= 1
            case Ping():
                self._send(Pong(message.operation_id))
            case GetStats():
                self._send(self._stats(message.operation_id))
            case GetMemory():
                self._send(self._memory(message.operation_id))

    def step(self) -> None:
        self._counts["num_steps"] += 1
        self._refuse()
        outputs = []
        # As many as fit, first come first served; the others wait.
        for request in list(self._running.values())[: self._options.fake_max_running]:
            outputs.append(self._next(request))
        if outputs:
            self._send(StepOutput(outputs))

    def _add(self, request: AddRequest) -> None:
        if not all(self._references[digest] > 0 for digest in digests_of(request)):
            self._fail(request, "adapter_not_found", "no such digest")
        elif self._options.fake_fails and FAIL_TOKEN in request.prompt_token_ids:
            self._fail(request, "internal_error", "the fake engine was told to fail")
        elif self._options.fake_fails and UNAVAILABLE_TOKEN in request.prompt_token_ids:
            self._fail(request, "adapter_unavailable", "its files are gone")
        elif self._options.fake_fails and REFUSE_TOKEN in request.prompt_token_ids:
            self._refused[request.request_id] = time.monotonic() + self._options.fake_refuse_s
        else:
            self._running[request.request_id] = request
            self._num_cached[request.request_id] = self._look_up_prefix(request)
            for digest in digests_of(request):
                kind = "hits" if digest in self._resident else "misses"
                self._counts[f"num_adapter_{kind}"] += 1
                self._make_resident(digest)

    def _refuse(self) -> None:
        for request_id, at_s in list(self._refused.items()):
            if time.monotonic() >= at_s:
                del self._refused[request_id]
                self._counts["num_refusals"] += 1
                text = "it would be served too late"
                self._send(RequestFailed(request_id, "overloaded", text, RETRY_AFTER_S))

    def _look_up_prefix(self, request: AddRequest) -> int:
        prompt = request.prompt_token_ids
        last = self._prefixes.get((request.digest, request.prefix_scope), [])
        common = [a == b for a, b in zip(last, prompt[:-1], strict=False)]
        num_cached = common.index(False) if False in common else len(common)
        if self._config.prefix_cache:
            self._prefixes[request.digest, request.prefix_scope] = prompt
        self._counts["num_prefix_lookup_tokens"] += len(prompt)
        self._counts["num_prefix_hit_tokens"] += num_cached
        return num_cached

    def _make_resident(self, digest: str) -> None:
        if digest not in self._resident:
            self._counts["num_adapter_loads"] += 1
        self._resident.pop(digest, None)
        self._resident[digest] = None
        for each in list(self._resident):
            num_resident = sum(self._num_pages[resident] for resident in self._resident)
            if num_resident > self._options.fake_num_pages // 2 and not self._is_used(each):
                del self._resident[each]
                self._counts["num_adapter_evictions"] += 1

    def _is_used(self, digest: str) -> bool:
        return self._pins[digest] > 0 or self._num_users(digest) > 0

    def _num_users(self, digest: str) -> int:
        return sum(digest in digests_of(each) for each in self._running.values())

    def _next(self, request: AddRequest) -> TokenOutput:
        request_id, sampling = request.request_id, request.sampling
        position = self._num_sent[request_id]
        prompt_logprobs = self._prompt_logprobs(request) if position == 0 else None
        tokens = []
        if sampling.max_tokens > 0:
            tokens = [self._answer_token(request, position)]
        self._num_sent[request_id] += len(tokens)
        num_sent, reason = self._num_sent[request_id], None
        if set(tokens) & set(sampling.stop_token_ids) and num_sent > sampling.min_tokens:
            reason = "stop"
        elif num_sent == sampling.max_tokens:
            reason = "length"
        if reason is not None:
            del self._running[request_id]
        logprobs = None
        if sampling.num_logprobs is not None:
            place = len(request.prompt_token_ids) + position
            logprobs = [
                self._logprobs(token, place, sampling.num_logprobs, sampling.seed)
                for token in tokens
            ]
        routing = None
        if request.returns_routing:
            num_gates = self._num_gates(request.digest)
            routing = [scripted_routing(position, num_gates) for _ in tokens]
        num_cached = self._num_cached[request_id]
        return TokenOutput(
            request_id, tokens, reason, num_cached, logprobs, prompt_logprobs, QUEUE_S, routing
        )

    def _num_gates(self, digest: str | None) -> int:
        assert digest is not None
        routed = self._routed[digest]
        return MAX_RANK if routed.by_rank else len(routed.experts)

    def _prompt_logprobs(self, request: AddRequest) -> list[TokenLogprobs] | None:
        num_top = request.sampling.num_prompt_logprobs
        if num_top is None:
            return None
        tokens = list(enumerate(request.prompt_token_ids))[1:]
        return [self._logprobs(token, place, num_top) for place, token in tokens]

    def _logprobs(self, token: int, place: int, num_top: int, seed: int = 0) -> TokenLogprobs:
        vocab_size = self._options.fake_vocab_size
        return scripted_logprobs(token, place, num_top, vocab_size=vocab_size, seed=seed)

    def _answer_token(self, request: AddRequest, position: int) -> int:
        script = script_of(request.prompt_token_ids, self._options.fake_script_token)
        if script is None:
            return answer_token(request.prompt_token_ids, request.digest, position)
        return [*script, request.sampling.stop_token_ids[0]][position]

    def _load(self, message: LoadAdapter) -> None:
        path = Path(message.path)
        time.sleep(self._options.fake_load_s)
        self._counts["num_adapter_reads"] += 1
        is_set = (path / "router_config.json").exists()
        content = set_content(message) if is_set else weights_in(path)
        routed = routed_info(path) if is_set else None
        if content == b"bad":
            self._counts["num_adapter_read_failures"] += 1
            refusal = AdapterRefused(message.operation_id, "invalid_adapter", "bad weights")
            self._send(refusal)
            return
        digest = digest_of(content)
        self._references[digest] += 1
        self._num_pages[digest] = len(content)
        if routed is not None:
            self._routed[digest] = routed
        info = AdapterInfo(digest, MAX_RANK, ["q", "v"], 1000, len(content), routed)
        self._send(AdapterLoaded(message.operation_id, info))

    def _pin(self, message: PinAdapter) -> None:
        digest = message.digest
        assert self._references[digest] > 0, "only what is held may be pinned"
        time.sleep(self._options.fake_pin_s)
        num_pinned = self._pages_of({*self._pinned(), digest})
        if num_pinned > self._options.fake_max_pinned_pages:
            text = "pins would leave too little of the pool"
            self._send(AdapterRefused(message.operation_id, "pins_exceed_pool", text))
            return
        self._pins[digest] += 1
        self._make_resident(digest)
        self._send(AdapterPinned(message.operation_id))

    def _pinned(self) -> list[str]:
        return [digest for digest, count in self._pins.items() if count > 0]

    def _pages_of(self, digests: Iterable[str]) -> int:
        return sum(self._num_pages[digest] for digest in digests)

    def _on_host(self) -> list[str]:
        return [digest for digest, count in self._references.items() if count > 0]

    def _stats(self, operation_id: str) -> EngineStats:
        digests = {digest for each in self._running.values() for digest in digests_of(each)}
        limit = self._options.fake_max_running
        num_total = self._options.fake_num_pages
        num_in_use = self._pages_of(each for each in self._resident if self._is_used(each))
        num_idle = self._pages_of(self._resident) - num_in_use
        num_kv, num_prefix = len(self._running), len(self._prefixes)
        return EngineStats(
            operation_id=operation_id,
            num_pages_total=num_total,
            num_pages_free=num_total - num_kv - num_in_use - num_idle - num_prefix,
            num_pages_cached=num_idle + num_prefix,
            num_pages_cached_prefix=num_prefix,
            num_pages_kv=num_kv,
            num_pages_adapters_in_use=num_in_use,
            num_pages_pinned=self._pages_of(self._pinned()),
            adapter_fill=0.75,
            kv_fill=0.5,
            num_running=min(limit, len(self._running)),
            num_waiting=max(0, len(self._running) - limit),
            num_preemptions=0,
            num_refusals=self._counts["num_refusals"],
            num_steps=self._counts["num_steps"],
            num_prompt_tokens=self._counts["num_prefix_lookup_tokens"]
            - self._counts["num_prefix_hit_tokens"],
            num_output_tokens=sum(self._num_sent.values()),
            num_prefix_lookup_tokens=self._counts["num_prefix_lookup_tokens"],
            num_prefix_hit_tokens=self._counts["num_prefix_hit_tokens"],
            num_prefix_evictions=0,
            num_adapters_known=len(self._on_host()),
            host_bytes_budget=self._config.host_adapter_bytes or HOST_BUDGET_BYTES,
            host_bytes_used=self._pages_of(self._on_host()) * PAGE_BYTES,
            num_adapters_on_host=len(self._on_host()),
            num_adapter_hits=self._counts["num_adapter_hits"],
            num_adapter_misses=self._counts["num_adapter_misses"],
            num_adapter_reads=self._counts["num_adapter_reads"],
            num_adapter_read_failures=self._counts["num_adapter_read_failures"],
            adapter_read_s=0.25 * self._counts["num_adapter_reads"],
            num_adapter_loads=self._counts["num_adapter_loads"],
            adapter_load_s=0.125 * self._counts["num_adapter_loads"],
            num_adapter_evictions=self._counts["num_adapter_evictions"],
            num_host_evictions=0,
            running_adapters=sorted(digests),
            waiting_adapters=[],
            resident_adapters=list(self._resident),
        )

    def _memory(self, operation_id: str) -> MemoryReport:
        adapters = [
            AdapterMemory(
                digest=digest,
                device_state="resident" if digest in self._resident else None,
                num_pages=self._num_pages[digest] if digest in self._resident else 0,
                num_prefix_pages=sum(each == digest for each, _ in self._prefixes),
                num_users=self._num_users(digest),
                is_pinned=self._pins[digest] > 0,
                host_bytes=self._num_pages[digest] * PAGE_BYTES,
            )
            for digest in self._on_host()
        ]
        num_base = sum(digest is None for digest, _ in self._prefixes)
        return MemoryReport(operation_id, self._stats(operation_id), num_base, adapters)

    def _fail(self, request: AddRequest, code: str, text: str) -> None:
        self._send(RequestFailed(request.request_id, code, text))

    def _send(self, message: object) -> None:
        self._socket.send(encode(message))

    @property
    def is_idle(self) -> bool:
        return not self._running and not self._refused


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--fake-log", type=Path, required=True)
    parser.add_argument("--fake-step-s", type=float, default=0.001)
    parser.add_argument("--fake-long-step-s", type=float, default=0.0)
    parser.add_argument("--fake-load-s", type=float, default=0.0)
    parser.add_argument("--fake-refuse-s", type=float, default=0.0)
    parser.add_argument("--fake-pin-s", type=float, default=0.0)
    parser.add_argument("--fake-max-pinned-pages", type=int, default=500)
    parser.add_argument("--fake-num-pages", type=int, default=1000)
    parser.add_argument("--fake-max-running", type=int, default=64)
    parser.add_argument("--fake-max-model-len", type=int, default=512)
    parser.add_argument("--fake-vocab-size", type=int, default=259)
    parser.add_argument("--fake-script-token", type=int)
    parser.add_argument("--fake-start-s", type=float, default=0.0)
    parser.add_argument("--fake-fails", type=int, default=1, help="0: no token has it fail")
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
    shape = ModelShape(2, HIDDEN_SIZE, 128, 4, 2, 16, options.fake_vocab_size)
    ready = EngineReady(
        model_name=config.model_name or "fake",
        shape=shape,
        dtype="float32",
        device="cpu",
        max_model_len=config.max_model_len or options.fake_max_model_len,
        page_size=PAGE_SIZE,
        page_bytes=PAGE_BYTES,
        num_pages=options.fake_num_pages,
    )
    socket.send(encode(ready))
    engine = FakeEngine(socket, options, config)
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
