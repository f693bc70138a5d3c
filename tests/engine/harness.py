"""An engine without a model, for tests: real scheduler, loader threads and files, a fake runner.

Owns: the engine's wiring, what it sent, and the check that nothing is left behind.
Does not know: what a test is about.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from motet.core.messages import (
    AdapterLoaded,
    AdapterRefused,
    AddRequest,
    EngineStats,
    FromEngine,
    GetMemory,
    LoadAdapter,
    MemoryReport,
    RequestFailed,
    StepOutput,
)
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape
from motet.engine.adapters import EngineAdapters
from motet.engine.engine import Engine
from motet.engine.grammar import load_tokenizer
from motet.engine.grammar_compiler import GrammarCompiler
from motet.engine.loader import AdapterLoader
from motet.engine.store import AdapterStore
from motet.memory.device_pool import DevicePool, row_capacity
from motet.memory.eviction import PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry
from motet.memory.unified import unified_memory
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policy import PolicyFactory
from motet.scheduler.scheduler import Scheduler
from motet.scheduler.sequence import NO_LOGPROBS, NO_ROUTING, Batch, BatchLogprobs, Routing
from tests.adapters.make import AdapterSpec, write_lora

T = TypeVar("T")

SHAPE = ModelShape(
    num_layers=2,
    hidden_size=32,
    intermediate_size=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=100,
)
NUM_PAGES = 24
MAX_MODEL_LEN = 300


@dataclass(frozen=True)
class FakeTokens:
    """The tokens of a step, and where it is noted that they were waited for."""

    step: int
    tokens: list[int | None]
    log: list[tuple[str, int]]

    def wait(self) -> list[int | None]:
        self.log.append(("wait", self.step))
        return self.tokens

    def logprobs(self) -> BatchLogprobs:
        return NO_LOGPROBS

    def routing(self) -> Routing:
        return NO_ROUTING


class FakeRunner:
    """Every token is 7; sequences whose prompt starts with 99 get logits that are not finite.

    Attributes:
        log: what was launched and waited for, in order.
    """

    def __init__(self, *, overlaps: bool) -> None:
        self.overlaps = overlaps
        self.log: list[tuple[str, int]] = []

    @property
    def steps(self) -> list[int]:
        """The steps that were launched."""
        return [step for what, step in self.log if what == "launch"]

    def launch(self, batch: Batch) -> FakeTokens:
        step = len(self.steps)
        self.log.append(("launch", step))
        tokens = [
            None if chunk.sequence.prompt_token_ids[0] == 99 else 7
            for chunk in batch.chunks
            if chunk.samples
        ]
        return FakeTokens(step, tokens, self.log)


class Harness:
    """An engine, what it sent, and the pool under it."""

    def __init__(
        self,
        host_budget_pages: int = 1000,
        *,
        overlaps: bool = False,
        grammars: GrammarCompiler | None = None,
        make_policy: PolicyFactory = Fcfs,
    ) -> None:
        geometry = PageGeometry(SHAPE, 16)
        page_bytes = geometry.page_bytes(4)
        self.device_pool = DevicePool(geometry, NUM_PAGES, torch.float32, torch.device("cpu"))
        self.sent: list[FromEngine] = []
        costs = PageCosts()
        self.memory = unified_memory(
            geometry,
            SavingPolicy(costs),
            page_bytes=page_bytes,
            num_pages=NUM_PAGES,
            row_capacity=row_capacity(geometry, NUM_PAGES),
            host_budget_pages=host_budget_pages,
        )
        scheduler = Scheduler(
            self.memory, max_step_tokens=64, max_running=8, make_policy=make_policy
        )
        self.runner = FakeRunner(overlaps=overlaps)
        self.engine = Engine(
            scheduler=scheduler,
            runner=self.runner,
            adapters=EngineAdapters(
                store=AdapterStore(),
                loader=AdapterLoader(self.device_pool, 2, host_budget_pages, lambda: None),
                scheduler=scheduler,
                memory=self.memory,
                costs=costs,
                send=self.sent.append,
            ),
            grammars=grammars
            or GrammarCompiler(lambda: load_tokenizer(None, SHAPE.vocab_size, ()), lambda: None),
            memory=self.memory,
            costs=costs,
            max_model_len=MAX_MODEL_LEN,
            send=self.sent.append,
        )

    def load(self, path: Path, expert_paths: Sequence[Path] = ()) -> AdapterLoaded | AdapterRefused:
        """Load a directory and step until the engine answers."""
        operation_id = f"load-{len(self.sent)}"
        self.engine.handle(LoadAdapter(operation_id, str(path), list(map(str, expert_paths))))
        return self.step_until(
            lambda: next(
                (
                    message
                    for message in self.sent
                    if isinstance(message, AdapterLoaded | AdapterRefused)
                    and message.operation_id == operation_id
                ),
                None,
            )
        )

    def digest(self, path: Path, expert_paths: Sequence[Path] = ()) -> str:
        loaded = self.load(path, expert_paths)
        assert isinstance(loaded, AdapterLoaded), loaded
        return loaded.info.digest

    def add(self, request_id: str, digest: str | None = None, **changes: object) -> None:
        prompt = changes.pop("prompt", [1, 2, 3])
        parts = changes.pop("parts", [])
        sampling = SamplingParams(**{"max_tokens": 4, **changes})  # type: ignore[arg-type]
        self.engine.handle(AddRequest(request_id, prompt, sampling, digest, parts=parts))  # type: ignore[arg-type]

    def step_until(self, condition: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if (result := condition()) is not None:
                return result
            if not self.engine.step():
                time.sleep(0.005)
        raise AssertionError(f"nothing came of it; sent: {self.sent}")

    def finish(self, request_id: str) -> str:
        """Step until the request ends; its finish reason or error code."""
        return self.step_until(lambda: self.end_of(request_id))

    def end_of(self, request_id: str) -> str | None:
        for message in self.sent:
            if isinstance(message, RequestFailed) and message.request_id == request_id:
                return message.code
            if isinstance(message, StepOutput):
                for output in message.outputs:
                    if output.request_id == request_id and output.finish_reason is not None:
                        return output.finish_reason
        return None

    def tokens(self, request_id: str) -> list[int]:
        return [
            token
            for message in self.sent
            if isinstance(message, StepOutput)
            for output in message.outputs
            if output.request_id == request_id
            for token in output.token_ids
        ]

    def finish_all_is_well(self) -> None:
        """Nothing runs, and every page is free or cached."""
        while self.engine.step():
            pass
        stats = self.stats()
        assert stats.num_running == stats.num_waiting == 0
        assert stats.num_pages_kv == stats.num_pages_adapters_in_use == 0
        assert stats.num_pages_free + stats.num_pages_cached == NUM_PAGES
        assert self.memory.host.num_reading == 0
        assert stats.host_bytes_used <= stats.host_bytes_budget

    def stats(self) -> EngineStats:
        """A snapshot, after a check of the whole pool."""
        self.engine.handle(GetMemory("stats"))
        report = self.sent[-1]
        assert isinstance(report, MemoryReport)
        stats = report.stats
        assert stats.num_pages_total == (
            stats.num_pages_free
            + stats.num_pages_cached
            + stats.num_pages_kv
            + stats.num_pages_adapters_in_use
        )
        return stats


def adapter(tmp_path: Path, name: str, *, rank: int = 4, seed: int = 0) -> Path:
    return write_lora(tmp_path / name, SHAPE, AdapterSpec(rank=rank, seed=seed))
