"""The engine without a model: real scheduler, loader threads and files, a fake runner."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch

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
)
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape
from motet.engine.engine import Engine
from motet.engine.loader import AdapterLoader
from motet.engine.store import AdapterStore
from motet.memory.device_pool import DevicePool, row_capacity
from motet.memory.geometry import PageGeometry
from motet.memory.page_pool import PagePool
from motet.memory.residency import AdapterResidency
from motet.scheduler.scheduler import Scheduler
from motet.scheduler.sequence import Batch
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


class FakeRunner:
    """Every token is 7; sequences whose prompt starts with 99 get logits that are not finite."""

    def run(self, batch: Batch) -> list[int | None]:
        return [
            None if chunk.sequence.prompt_token_ids[0] == 99 else 7
            for chunk in batch.chunks
            if chunk.samples
        ]


class Harness:
    """An engine, what it sent, and the pool under it."""

    def __init__(self) -> None:
        geometry = PageGeometry(SHAPE, 16)
        self.device_pool = DevicePool(geometry, NUM_PAGES, torch.float32, torch.device("cpu"))
        self.sent: list[FromEngine] = []
        pool = PagePool(NUM_PAGES)
        residency = AdapterResidency(pool, NUM_PAGES, row_capacity(geometry, NUM_PAGES))
        self.engine = Engine(
            scheduler=Scheduler(pool, residency, geometry, max_step_tokens=64, max_running=8),
            runner=FakeRunner(),
            loader=AdapterLoader(self.device_pool, 2, lambda: None),
            pool=pool,
            residency=residency,
            store=AdapterStore(),
            max_model_len=MAX_MODEL_LEN,
            send=self.sent.append,
        )

    def load(self, path: Path) -> AdapterLoaded | AdapterRefused:
        """Load a directory and step until the engine answers."""
        operation_id = f"load-{len(self.sent)}"
        self.engine.handle(LoadAdapter(operation_id, str(path)))
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

    def digest(self, path: Path) -> str:
        loaded = self.load(path)
        assert isinstance(loaded, AdapterLoaded), loaded
        return loaded.info.digest

    def add(self, request_id: str, digest: str | None = None, **changes: object) -> None:
        prompt = changes.pop("prompt", [1, 2, 3])
        sampling = SamplingParams(**{"max_tokens": 4, **changes})  # type: ignore[arg-type]
        self.engine.handle(AddRequest(request_id, prompt, sampling, digest))  # type: ignore[arg-type]

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

    def stats(self) -> EngineStats:
        self.engine.handle(GetStats("stats"))
        stats = self.sent[-1]
        assert isinstance(stats, EngineStats)
        assert stats.num_pages_total == (
            stats.num_pages_free
            + stats.num_pages_cached
            + stats.num_pages_kv
            + stats.num_pages_adapters_in_use
        )
        return stats


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    stats = harness.stats()
    assert stats.num_running == stats.num_waiting == 0
    assert stats.num_pages_free + stats.num_pages_cached == NUM_PAGES
    harness.engine.close()


def adapter(tmp_path: Path, name: str, *, rank: int = 4, seed: int = 0) -> Path:
    return write_lora(tmp_path / name, SHAPE, AdapterSpec(rank=rank, seed=seed))


def test_base_requests_run_to_their_length(harness: Harness) -> None:
    harness.add("a")
    harness.add("b", max_tokens=2)
    assert harness.finish("a") == "length"
    assert harness.finish("b") == "length"
    assert harness.tokens("a") == [7] * 4
    assert harness.tokens("b") == [7] * 2


def test_a_stop_token_ends_the_request(harness: Harness) -> None:
    harness.add("a", stop_token_ids=(7,))
    assert harness.finish("a") == "stop"
    assert harness.tokens("a") == [7]


def test_an_adapter_request_waits_for_its_copy_and_runs(harness: Harness, tmp_path: Path) -> None:
    digest = harness.digest(adapter(tmp_path, "one"))
    harness.add("a", digest)
    assert harness.finish("a") == "length"
    stats = harness.stats()
    assert stats.resident_adapters == [digest]
    assert stats.num_pages_cached > 0
    assert stats.num_adapter_loads == 1


def test_same_content_is_one_adapter(harness: Harness, tmp_path: Path) -> None:
    first = harness.digest(adapter(tmp_path, "one", seed=3))
    second = harness.digest(adapter(tmp_path, "two", seed=3))
    third = harness.digest(adapter(tmp_path, "three", seed=4))
    assert first == second != third


def test_an_unknown_digest_is_refused(harness: Harness) -> None:
    harness.add("a", "0" * 64)
    assert harness.end_of("a") == "adapter_not_loaded"


def test_a_request_beyond_the_context_is_refused(harness: Harness) -> None:
    harness.add("a", prompt=[1] * MAX_MODEL_LEN, max_tokens=1)
    assert harness.end_of("a") == "context_length_exceeded"


def test_a_request_beyond_the_pool_is_refused(harness: Harness, tmp_path: Path) -> None:
    digest = harness.digest(adapter(tmp_path, "large", rank=16))
    harness.add("a", digest, prompt=[1] * (MAX_MODEL_LEN - 4))
    assert harness.end_of("a") == "pool_too_small"


def test_an_adapter_beyond_the_pool_is_refused(harness: Harness, tmp_path: Path) -> None:
    refused = harness.load(adapter(tmp_path, "huge", rank=500))
    assert isinstance(refused, AdapterRefused)
    assert refused.code == "adapter_too_large"
    assert "pages" in refused.message


def test_a_missing_directory_is_refused(harness: Harness, tmp_path: Path) -> None:
    refused = harness.load(tmp_path / "nowhere")
    assert isinstance(refused, AdapterRefused)
    assert refused.code == "adapter_not_found"


def test_a_released_adapter_drains(harness: Harness, tmp_path: Path) -> None:
    """It stays for the request that runs with it, and goes afterwards, from device and host."""
    digest = harness.digest(adapter(tmp_path, "one"))
    harness.add("a", digest, max_tokens=20)
    harness.step_until(lambda: harness.tokens("a") or None)
    harness.engine.handle(ReleaseAdapter(digest))
    assert harness.stats().resident_adapters == [digest]
    harness.add("late", digest)
    assert harness.end_of("late") == "adapter_not_loaded"
    assert harness.finish("a") == "length"
    assert len(harness.tokens("a")) == 20
    stats = harness.stats()
    assert stats.resident_adapters == []
    assert stats.num_pages_free == NUM_PAGES


def test_a_released_adapter_may_come_back_while_it_drains(harness: Harness, tmp_path: Path) -> None:
    path = adapter(tmp_path, "one")
    digest = harness.digest(path)
    harness.add("a", digest, max_tokens=20)
    harness.step_until(lambda: harness.tokens("a") or None)
    harness.engine.handle(ReleaseAdapter(digest))
    assert harness.digest(path) == digest
    harness.add("b", digest)
    assert harness.finish("b") == "length"
    assert harness.finish("a") == "length"


def test_two_references_need_two_releases(harness: Harness, tmp_path: Path) -> None:
    path = adapter(tmp_path, "one")
    digest = harness.digest(path)
    harness.load(path)
    harness.engine.handle(ReleaseAdapter(digest))
    harness.add("a", digest)
    assert harness.finish("a") == "length"
    harness.engine.handle(ReleaseAdapter(digest))
    harness.add("b", digest)
    assert harness.end_of("b") == "adapter_not_loaded"


def test_abort_frees_at_once(harness: Harness, tmp_path: Path) -> None:
    digest = harness.digest(adapter(tmp_path, "one"))
    harness.add("a", digest, max_tokens=50)
    harness.step_until(lambda: harness.tokens("a") or None)
    harness.engine.handle(AbortRequest("a"))
    stats = harness.stats()
    assert stats.num_pages_kv == stats.num_pages_adapters_in_use == 0
    harness.engine.handle(AbortRequest("a"))  # a second time, and of nobody: ignored
    harness.engine.handle(AbortRequest("nobody"))


def test_logits_that_are_not_finite_end_one_request_only(harness: Harness) -> None:
    harness.add("bad", prompt=[99, 1])
    harness.add("good")
    assert harness.finish("bad") == "model_error"
    assert harness.finish("good") == "length"
    assert harness.tokens("good") == [7] * 4


def test_a_copy_that_fails_ends_its_requests_and_the_next_copy_works(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = harness.digest(adapter(tmp_path, "one"))

    def broken(*_: object) -> None:
        raise OSError("the copy broke")

    with monkeypatch.context() as patch:
        patch.setattr(harness.device_pool, "copy_in", broken)
        harness.add("a", digest)
        assert harness.finish("a") == "adapter_copy_failed"
    assert harness.stats().num_pages_free == NUM_PAGES
    harness.add("b", digest)
    assert harness.finish("b") == "length"


def test_a_cold_adapter_delays_nobody_else(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = harness.digest(adapter(tmp_path, "cold"))
    original = harness.device_pool.copy_in
    released = False

    def slow(*arguments: object) -> None:
        while not released:
            time.sleep(0.002)
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(harness.device_pool, "copy_in", slow)
    harness.add("cold", cold)
    harness.add("base")
    assert harness.finish("base") == "length"
    assert harness.tokens("cold") == []
    released = True
    assert harness.finish("cold") == "length"
