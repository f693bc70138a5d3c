"""The engine without a model: real scheduler, loader threads and files, a fake runner."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from motet.core.messages import (
    AbortRequest,
    AdapterRefused,
    EngineStats,
    GetMemory,
    GetStats,
    Ping,
    Pong,
    ReleaseAdapter,
)
from motet.memory.page_pool import PoolCorruptionError
from tests.engine.harness import MAX_MODEL_LEN, NUM_PAGES, Harness, adapter


@pytest.fixture(params=[False, True], ids=["one-by-one", "overlapped"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    harness = Harness(overlaps=request.param)
    yield harness
    harness.finish_all_is_well()
    harness.engine.close()


def test_base_requests_run_to_their_length(harness: Harness) -> None:
    harness.add("a")
    harness.add("b", max_tokens=2)
    assert harness.finish("a") == "length"
    assert harness.finish("b") == "length"
    assert harness.tokens("a") == [7] * 4
    assert harness.tokens("b") == [7] * 2


def test_a_report_checks_the_pool_and_a_scrape_does_not(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check visits every page, and no step runs meanwhile."""

    def lost() -> None:
        raise PoolCorruptionError("a page is lost")

    with monkeypatch.context() as patch:
        patch.setattr(harness.memory.pool, "check", lost)
        harness.engine.handle(GetStats("s"))
        harness.engine.handle(Ping("p"))
        with pytest.raises(PoolCorruptionError):
            harness.engine.handle(GetMemory("m"))
    stats, pong = harness.sent
    assert isinstance(stats, EngineStats)
    assert pong == Pong("p")


def test_a_stop_token_ends_the_request(harness: Harness) -> None:
    harness.add("a", stop_token_ids=(7,))
    assert harness.finish("a") == "stop"
    assert harness.tokens("a") == [7]


def test_a_request_may_ask_for_its_prompt_alone(harness: Harness) -> None:
    harness.add("only", max_tokens=0, prompt=[1] * MAX_MODEL_LEN)
    harness.add("one", max_tokens=0, prompt=[1])
    harness.add("other", max_tokens=2)
    assert harness.finish("only") == harness.finish("one") == harness.finish("other") == "length"
    assert harness.tokens("only") == harness.tokens("one") == []
    stats = harness.stats()
    assert stats.num_prompt_tokens == MAX_MODEL_LEN + 1 + 3
    assert stats.num_output_tokens == 2


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
    path = adapter(tmp_path, "one")
    digest = harness.digest(path)
    harness.add("a", digest, max_tokens=20)
    harness.step_until(lambda: harness.tokens("a") or None)
    harness.engine.handle(ReleaseAdapter(digest, str(path)))
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
    harness.engine.handle(ReleaseAdapter(digest, str(path)))
    assert harness.digest(path) == digest
    harness.add("b", digest)
    assert harness.finish("b") == "length"
    assert harness.finish("a") == "length"


def test_two_references_need_two_releases(harness: Harness, tmp_path: Path) -> None:
    path = adapter(tmp_path, "one")
    digest = harness.digest(path)
    harness.load(path)
    harness.engine.handle(ReleaseAdapter(digest, str(path)))
    harness.add("a", digest)
    assert harness.finish("a") == "length"
    harness.engine.handle(ReleaseAdapter(digest, str(path)))
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


def test_a_step_is_launched_before_the_tokens_of_the_one_before_are_waited_for() -> None:
    """And on a CPU it is not: there each step is over before the next is scheduled."""
    for overlaps in (False, True):
        harness = Harness(overlaps=overlaps)
        harness.add("a", max_tokens=3)
        while harness.engine.step():
            pass
        one, two, three = harness.runner.steps
        if overlaps:
            assert harness.runner.log == [
                ("launch", one),
                ("launch", two),
                ("wait", one),
                ("launch", three),
                ("wait", two),
                ("wait", three),
            ]
        else:
            assert harness.runner.log == [
                (what, step) for step in (one, two, three) for what in ("launch", "wait")
            ]
        assert harness.tokens("a") == [7] * 3
        assert harness.stats().num_output_tokens == 3
        harness.engine.close()


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
        assert harness.finish("a") == "adapter_unavailable"
    assert harness.stats().num_pages_free == NUM_PAGES
    harness.add("b", digest)
    assert harness.finish("b") == "length"


def test_a_cold_adapter_delays_nobody_else(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = harness.digest(adapter(tmp_path, "cold"))
    original = harness.device_pool.copy_in
    released = False

    def slow(*arguments: object, **options: object) -> None:
        while not released:
            time.sleep(0.002)
        original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(harness.device_pool, "copy_in", slow)
    harness.add("cold", cold)
    harness.add("base")
    assert harness.finish("base") == "length"
    assert harness.tokens("cold") == []
    released = True
    assert harness.finish("cold") == "length"
