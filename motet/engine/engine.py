"""The engine: messages in, steps, messages out.

Owns: the wiring of scheduler, runner, loader and adapter store, and the life of an adapter from
`LoadAdapter` to its last request.
Does not know: sockets and processes (`process.py`), HTTP, names of adapters.
"""

from collections.abc import Callable
from typing import Protocol

from motet.core.messages import (
    AbortRequest,
    AdapterLoaded,
    AdapterRefused,
    AddRequest,
    EngineStats,
    FromEngine,
    GetStats,
    LoadAdapter,
    ReleaseAdapter,
    RequestFailed,
    StepOutput,
    ToEngine,
    TokenOutput,
)
from motet.engine.loader import AdapterLoader, CopyDone, CopyFailed, ReadDone, ReadFailed
from motet.engine.store import AdapterStore
from motet.memory.page_pool import PagePool
from motet.memory.residency import AdapterResidency
from motet.scheduler.scheduler import Scheduler
from motet.scheduler.sequence import Batch


class Runner(Protocol):
    """Computes a batch: see `runner.ModelRunner`."""

    def run(self, batch: Batch) -> list[int | None]:
        """Tokens of the sampling chunks, in order."""
        ...


class Engine:
    """Continuous batching of requests over many adapters.

    Args:
        scheduler, runner, loader, pool, residency, store: its parts, sharing one page pool.
        max_model_len: longest sequence [tokens].
        send: takes the messages to the API process.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        runner: Runner,
        loader: AdapterLoader,
        pool: PagePool,
        residency: AdapterResidency,
        store: AdapterStore,
        max_model_len: int,
        send: Callable[[FromEngine], None],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._loader = loader
        self._pool = pool
        self._residency = residency
        self._store = store
        self._max_model_len = max_model_len
        self._send = send
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_output_tokens = 0

    def handle(self, message: ToEngine) -> None:
        """Take one message. Never waits: what takes time is answered later."""
        match message:
            case AddRequest():
                self._add(message)
            case AbortRequest(request_id=request_id):
                self._scheduler.abort(request_id)
                self._drop_drained()
            case LoadAdapter(operation_id=operation_id, path=path):
                self._loader.read(operation_id, path)
            case ReleaseAdapter(digest=digest):
                self._store.release(digest)
                self._drop_drained()
            case GetStats(operation_id=operation_id):
                self._send(self.stats(operation_id))
            case _:
                raise AssertionError(f"{message!r} is not for the engine")

    def step(self) -> bool:
        """Run one step: schedule, run, commit. False if there was nothing to run."""
        self._take_loader_events()
        batch, placements = self._scheduler.schedule()
        for placement in placements:
            self._loader.copy(placement, self._store.packed(placement.digest))
        if not batch.chunks:
            return False
        tokens = self._runner.run(batch)
        self._num_steps += 1
        self._num_output_tokens += len(tokens)
        self._report(self._scheduler.commit(batch, tokens))
        return True

    def stats(self, operation_id: str) -> EngineStats:
        """A snapshot. Verifies the pool first: a lost page must not stay unseen."""
        self._scheduler.check()
        num_cached = self._residency.num_evictable_pages()
        return EngineStats(
            operation_id=operation_id,
            num_pages_total=self._pool.num_pages,
            num_pages_free=self._pool.num_free,
            num_pages_cached=num_cached,
            num_pages_kv=self._pool.num_owned("kv"),
            num_pages_adapters_in_use=self._pool.num_owned("adapter") - num_cached,
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            num_preemptions=self._scheduler.num_preemptions,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_output_tokens=self._num_output_tokens,
            num_adapter_loads=self._residency.num_loads,
            num_adapter_evictions=self._residency.num_evictions,
            running_adapters=sorted(self._scheduler.running_adapters()),
            waiting_adapters=sorted(self._scheduler.waiting_adapters()),
            resident_adapters=sorted(self._residency.resident()),
        )

    def close(self) -> None:
        """End the loader threads."""
        self._loader.close()

    def _add(self, request: AddRequest) -> None:
        """Queue a request, or say why it can never run."""
        if request.digest is not None and not self._store.is_referenced(request.digest):
            self._fail(request.request_id, "adapter_not_loaded", "the adapter is not loaded")
            return
        num_tokens = len(request.prompt_token_ids) + request.sampling.max_tokens
        if num_tokens > self._max_model_len:
            self._fail(
                request.request_id,
                "context_length_exceeded",
                f"prompt and max_tokens are {num_tokens} tokens together; "
                f"the model takes {self._max_model_len}",
            )
            return
        num_pages = self._scheduler.num_pages_needed(request)
        if num_pages > self._pool.num_pages:
            self._fail(
                request.request_id,
                "pool_too_small",
                f"the request needs {num_pages} pages with its adapter; "
                f"the pool has {self._pool.num_pages}",
            )
            return
        self._num_prompt_tokens += len(request.prompt_token_ids)
        self._scheduler.add(request)

    def _report(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            if output.finish_reason == "error":
                self._fail(output.request_id, "model_error", "the model's logits were not finite")
        tokens = [output for output in outputs if output.finish_reason != "error"]
        if tokens:
            self._send(StepOutput(tokens))
        if any(output.finish_reason is not None for output in outputs):
            self._drop_drained()

    def _take_loader_events(self) -> None:
        for event in self._loader.poll():
            match event:
                case ReadDone(operation_id=operation_id, packed=packed, info=info):
                    layout = packed.layout
                    self._store.keep(packed, info)
                    self._residency.register(
                        info.digest, num_pages=layout.num_pages, num_rows=layout.num_rows
                    )
                    self._send(AdapterLoaded(operation_id, info))
                case ReadFailed(operation_id=operation_id, error=error):
                    self._send(AdapterRefused(operation_id, error.code, error.message))
                case CopyDone(digest=digest):
                    self._residency.finish_load(digest)
                    self._drop_drained()
                case CopyFailed(digest=digest, message=message):
                    self._residency.fail_load(digest)
                    for request_id in self._scheduler.abort_adapter(digest):
                        self._fail(request_id, "adapter_copy_failed", message)
                    self._drop_drained()

    def _drop_drained(self) -> None:
        """Let go of adapters that no name refers to and no request uses."""
        for digest in self._store.draining():
            if not self._scheduler.uses_adapter(digest) and self._residency.forget(digest):
                self._store.drop(digest)

    def _fail(self, request_id: str, code: str, message: str) -> None:
        self._send(RequestFailed(request_id, code, message))
