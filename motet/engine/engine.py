"""The engine: messages in, steps, messages out.

Owns: the step, and a request's way from `AddRequest` to its last token.
Does not know: sockets and processes (`process.py`), how adapters come and go (`adapters.py`), HTTP,
names of adapters.

A step is scheduled, launched, and committed once its tokens are known. On a CPU these follow one
another. On a GPU the next step is scheduled and launched before the tokens of this one are waited
for, so that the device always has something to do; `scheduler.py` says what becomes of sequences
that end meanwhile.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from motet.core.messages import (
    AbortRequest,
    AddRequest,
    FromEngine,
    GetMemory,
    GetStats,
    LoadAdapter,
    PinAdapter,
    Ping,
    Pong,
    ReleaseAdapter,
    RequestFailed,
    StepOutput,
    ToEngine,
    TokenOutput,
    UnpinAdapter,
)
from motet.engine.adapters import EngineAdapters
from motet.engine.grammar_compiler import GrammarCompiler, under_grammar
from motet.engine.report import StepCounts, memory_report, stats
from motet.memory.eviction import Kind, PageCosts
from motet.memory.unified import UnifiedMemory
from motet.scheduler.scheduler import Plan, Scheduler
from motet.scheduler.sequence import Batch, BatchLogprobs, Routing

# A step tells what a token costs if it has at least this many for each of its sequences: then
# prefill makes up most of it.
_PREFILL_TOKENS_PER_SEQUENCE = 8


class PendingTokens(Protocol):
    """Tokens of a step that may still be running: see `runner.PendingTokens`."""

    def wait(self) -> list[int | None]:
        """Tokens of the sampling chunks, in order, once the step has run."""
        ...

    def logprobs(self) -> BatchLogprobs:
        """What was asked of log probabilities, once the step has run."""
        ...

    def routing(self) -> Routing:
        """What was asked of routing, once the step has run."""
        ...


class Runner(Protocol):
    """Computes batches: see `runner.ModelRunner`."""

    @property
    def overlaps(self) -> bool:
        """Whether a batch may be launched before the tokens of the one before are waited for."""
        ...

    def launch(self, batch: Batch) -> PendingTokens:
        """Start computing a batch."""
        ...


@dataclass(frozen=True)
class _Step:
    """A step in flight."""

    batch: Batch
    tokens: PendingTokens
    launched_s: float


class Engine:
    """Continuous batching of requests over many adapters.

    Args:
        scheduler, runner, adapters: its parts, over the same memory.
        grammars: compiles what keeps sequences to their grammars.
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
        grammars: GrammarCompiler,
        memory: UnifiedMemory,
        costs: PageCosts,
        max_model_len: int,
        send: Callable[[FromEngine], None],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._adapters = adapters
        self._grammars = grammars
        self._memory = memory
        self._costs = costs
        self._max_model_len = max_model_len
        self._send = send
        self._counts = StepCounts()
        self._in_flight: _Step | None = None
        self._finished_s = 0.0  # when the last step was

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
            case Ping(operation_id=operation_id):
                self._send(Pong(operation_id))
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
        """Launch the next step, and commit the one before. False if there was nothing to do."""
        self._adapters.take_loader_events()
        self._take_grammars()
        before = self._in_flight
        if before is not None and not self._scheduler.may_run_ahead:
            self._finish(before)
            before = None
        plan = self._scheduler.schedule()
        self._adapters.share_cores(is_stepping=bool(plan.batch.chunks))
        self._adapters.start(plan)
        self._refuse(plan)
        self._in_flight = self._launch(plan.batch) if plan.batch.chunks else None
        has_work = before is not None or self._in_flight is not None
        if before is not None:
            self._finish(before)
        if self._in_flight is not None and not self._runner.overlaps:
            self._finish(self._in_flight)
            self._in_flight = None
        return has_work

    @property
    def longest_sleep_s(self) -> float | None:
        """How long it can do without a step while nothing else happens; None for ever."""
        refusal_s = self._scheduler.next_refusal_s
        return None if refusal_s is None else max(0.0, refusal_s - time.monotonic())

    def close(self) -> None:
        """End the loader threads, and those that compile grammars."""
        self._adapters.close()
        self._grammars.close()

    def _launch(self, batch: Batch) -> _Step:
        launched_s = time.monotonic()
        return _Step(batch, self._runner.launch(batch), launched_s)

    def _finish(self, step: _Step) -> None:
        """Wait for the tokens of a step, and commit it."""
        tokens = step.tokens.wait()
        started_s = max(step.launched_s, self._finished_s)  # the device takes one after another
        self._finished_s = time.monotonic()
        self._learn_cost(step.batch, self._finished_s - started_s)
        outputs = self._scheduler.commit(
            step.batch, tokens, step.tokens.logprobs(), step.tokens.routing()
        )
        self._counts.num_steps += 1
        self._counts.num_output_tokens += sum(len(output.token_ids) for output in outputs)
        self._report(outputs, step.batch)

    def _learn_cost(self, batch: Batch, seconds: float) -> None:
        if batch.num_tokens >= _PREFILL_TOKENS_PER_SEQUENCE * len(batch.chunks):
            num_pages = batch.num_tokens / self._memory.geometry.page_size
            self._costs.observe(Kind.PREFIX, seconds, num_pages)

    def _add(self, request: AddRequest) -> None:
        """Queue a request, or say why it can never run."""
        if (reason := self._adapters.unusable(request)) is not None:
            self._fail(request.request_id, "adapter_not_loaded", reason)
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
        if not self._scheduler.capacity.fits(request):
            num_pages_needed = self._scheduler.capacity.num_pages_needed(request)
            self._fail(
                request.request_id,
                "pool_too_small",
                f"the request needs {num_pages_needed} pages with its "
                f"adapters; the pool has {self._memory.pool.num_pages}, of which pinned adapters "
                f"keep {self._memory.residency.num_pinned_pages}",
            )
            return
        self._counts.num_prompt_tokens += len(request.prompt_token_ids)
        grammar = request.sampling.grammar
        if grammar is None:
            self._scheduler.add(request)
        else:
            guide = self._grammars.guide(request.request_id, grammar)
            self._scheduler.add(under_grammar(request), guide)

    def _refuse(self, plan: Plan) -> None:
        """Tell those whom the policy gave up."""
        for refusal in plan.refusals:
            request_id = refusal.request.request_id
            self._send(
                RequestFailed(request_id, "overloaded", refusal.reason, refusal.retry_after_s)
            )
        if plan.refusals:
            self._adapters.drop_drained()

    def _take_grammars(self) -> None:
        """Let go of requests whose grammars cannot be compiled; the others may run now."""
        for request_id, reason in self._grammars.poll():
            if self._scheduler.abort(request_id):
                self._fail(request_id, "grammar_error", f"The grammar was refused: {reason}.")
                self._adapters.drop_drained()

    def _report(self, outputs: list[TokenOutput], batch: Batch) -> None:
        tokens = []
        for output in outputs:
            match output.finish_reason:
                case "error":
                    message = "the model's logits were not finite"
                    self._fail(output.request_id, "model_error", message)
                case "grammar_error":
                    self._fail_grammar(output.request_id, batch)
                case _:
                    tokens.append(output)
        if tokens:
            self._send(StepOutput(tokens))
        if any(output.finish_reason is not None for output in outputs):
            self._adapters.drop_drained()

    def _fail_grammar(self, request_id: str, batch: Batch) -> None:
        """Say why a sequence of the batch cannot follow its grammar any further."""
        seq = next(c.sequence for c in batch.chunks if c.sequence.request_id == request_id)
        assert seq.guide is not None
        assert seq.sampling.grammar is not None
        self._grammars.forget(seq.sampling.grammar)
        reason = f"The output cannot go on along the grammar: {seq.guide.error}."
        self._fail(request_id, "grammar_error", reason)

    def _fail(self, request_id: str, code: str, message: str) -> None:
        self._send(RequestFailed(request_id, code, message))
