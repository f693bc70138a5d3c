"""The engine: messages in, steps, messages out.

Owns: the step, and a request's way from `AddRequest` to its last token.
Does not know: sockets and processes (`process.py`), how adapters come and go (`adapters.py`), HTTP,
names of adapters.
"""

import time
from collections.abc import Callable
from typing import Protocol

from motet.core.messages import (
    AbortRequest,
    AddRequest,
    FromEngine,
    GetMemory,
    GetStats,
    LoadAdapter,
    PinAdapter,
    ReleaseAdapter,
    RequestFailed,
    StepOutput,
    ToEngine,
    TokenOutput,
    UnpinAdapter,
)
from motet.engine.adapters import EngineAdapters
from motet.engine.report import StepCounts, memory_report, stats
from motet.memory.eviction import Kind, PageCosts
from motet.memory.unified import UnifiedMemory
from motet.scheduler.scheduler import Scheduler
from motet.scheduler.sequence import Batch

# A step tells what a token costs if it has at least this many for each of its sequences: then
# prefill makes up most of it.
_PREFILL_TOKENS_PER_SEQUENCE = 8


class Runner(Protocol):
    """Computes a batch: see `runner.ModelRunner`."""

    def run(self, batch: Batch) -> list[int | None]:
        """Tokens of the sampling chunks, in order."""
        ...


class Engine:
    """Continuous batching of requests over many adapters.

    Args:
        scheduler, runner, adapters: its parts, over the same memory.
        memory: what sequences and adapters share.
        costs: learns what a step takes.
        max_model_len: longest sequence [tokens].
        send: takes the messages to the API process.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        runner: Runner,
        adapters: EngineAdapters,
        memory: UnifiedMemory,
        costs: PageCosts,
        max_model_len: int,
        send: Callable[[FromEngine], None],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._adapters = adapters
        self._memory = memory
        self._costs = costs
        self._max_model_len = max_model_len
        self._send = send
        self._counts = StepCounts()

    def handle(self, message: ToEngine) -> None:
        """Take one message. Never waits: what takes time is answered later."""
        match message:
            case AddRequest():
                self._add(message)
            case AbortRequest(request_id=request_id):
                self._scheduler.abort(request_id)
                self._adapters.drop_drained()
            case LoadAdapter() | ReleaseAdapter() | PinAdapter() | UnpinAdapter():
                self._adapters.handle(message)
            case GetStats(operation_id=operation_id):
                self._send(
                    stats(operation_id, self._scheduler, self._memory, self._adapters, self._counts)
                )
            case GetMemory(operation_id=operation_id):
                self._send(
                    memory_report(
                        operation_id, self._scheduler, self._memory, self._adapters, self._counts
                    )
                )
            case _:
                raise AssertionError(f"{message!r} is not for the engine")

    def step(self) -> bool:
        """Run one step: schedule, run, commit. False if there was nothing to run."""
        self._adapters.take_loader_events()
        plan = self._scheduler.schedule()
        self._adapters.share_cores(is_stepping=bool(plan.batch.chunks))
        self._adapters.start(plan)
        if not plan.batch.chunks:
            return False
        started_s = time.monotonic()
        tokens = self._runner.run(plan.batch)
        self._learn_cost(plan.batch, time.monotonic() - started_s)
        self._counts.num_steps += 1
        self._counts.num_output_tokens += len(tokens)
        self._report(self._scheduler.commit(plan.batch, tokens))
        return True

    def close(self) -> None:
        """End the loader threads."""
        self._adapters.close()

    def _learn_cost(self, batch: Batch, seconds: float) -> None:
        if batch.num_tokens >= _PREFILL_TOKENS_PER_SEQUENCE * len(batch.chunks):
            num_pages = batch.num_tokens / self._memory.geometry.page_size
            self._costs.observe(Kind.PREFIX, seconds, num_pages)

    def _add(self, request: AddRequest) -> None:
        """Queue a request, or say why it can never run."""
        if request.digest is not None and not self._adapters.is_referenced(request.digest):
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
        if not self._scheduler.fits(request):
            self._fail(
                request.request_id,
                "pool_too_small",
                f"the request needs {self._scheduler.num_pages_needed(request)} pages with its "
                f"adapter; the pool has {self._memory.pool.num_pages}, of which pinned adapters "
                f"keep {self._memory.residency.num_pinned_pages}",
            )
            return
        self._counts.num_prompt_tokens += len(request.prompt_token_ids)
        self._scheduler.add(request)

    def _report(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            if output.finish_reason == "error":
                self._fail(output.request_id, "model_error", "the model's logits were not finite")
        tokens = [output for output in outputs if output.finish_reason != "error"]
        if tokens:
            self._send(StepOutput(tokens))
        if any(output.finish_reason is not None for output in outputs):
            self._adapters.drop_drained()

    def _fail(self, request_id: str, code: str, message: str) -> None:
        self._send(RequestFailed(request_id, code, message))
