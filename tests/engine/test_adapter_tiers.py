"""Adapters between disk, host memory and device: what can go wrong on the way, and pins.

A load is killed at each of its stages. Each time the request gets a clear error, nothing leaks
(the fixture checks the pool afterwards), and the next load works.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from motet.adapters import checkpoint
from motet.core.messages import (
    AbortRequest,
    AdapterPinned,
    AdapterRefused,
    GetMemory,
    MemoryReport,
    PinAdapter,
    ReleaseAdapter,
    RequestFailed,
    UnpinAdapter,
)
from tests.engine.harness import NUM_PAGES, Harness, adapter

ADAPTER_PAGES = 2  # of each adapter here
RANK = 2


@pytest.fixture
def harness() -> Iterator[Harness]:
    """With host memory for one adapter and a half, so that each pushes out the one before it."""
    harness = Harness(host_budget_pages=3)
    yield harness
    harness.finish_all_is_well()
    harness.engine.close()


def cold(harness: Harness, tmp_path: Path) -> tuple[Path, str]:
    """An adapter that is known, but neither on the device nor in host memory any more."""
    path = adapter(tmp_path, "cold", rank=RANK, seed=1)
    digest = harness.digest(path)
    harness.digest(adapter(tmp_path, "other", rank=RANK, seed=2))
    assert harness.memory.residency.num_pages(digest) == ADAPTER_PAGES
    assert not harness.memory.host.has(digest)
    return path, digest


def failure(harness: Harness, request_id: str) -> str:
    """Step until a request fails; the message it failed with."""
    assert harness.finish(request_id) == "adapter_unavailable"
    return next(
        message.message
        for message in harness.sent
        if isinstance(message, RequestFailed) and message.request_id == request_id
    )


def test_an_adapter_that_left_host_memory_is_read_again(harness: Harness, tmp_path: Path) -> None:
    _, digest = cold(harness, tmp_path)
    harness.add("a", digest)
    assert harness.finish("a") == "length"
    stats = harness.stats()
    assert stats.num_adapter_reads == 3
    assert stats.num_adapter_loads == 1
    assert stats.num_host_evictions == 2
    assert stats.adapter_read_s > 0 < stats.adapter_load_s


def missing_directory(path: Path) -> None:
    shutil.rmtree(path)


def missing_weights(path: Path) -> None:
    (path / "adapter_model.safetensors").unlink()


def truncated_weights(path: Path) -> None:
    weights = path / "adapter_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def damaged_config(path: Path) -> None:
    (path / "adapter_config.json").write_text("{")


def other_content(path: Path) -> None:
    shutil.rmtree(path)
    adapter(path.parent, path.name, rank=RANK, seed=99)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (missing_directory, "no directory"),
        (missing_weights, "no adapter_model.safetensors"),
        (truncated_weights, "truncated"),
        (damaged_config, "adapter_config.json"),
        (other_content, "changed since it was loaded"),
    ],
)
def test_files_that_are_damaged_meanwhile(
    harness: Harness, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    path, digest = cold(harness, tmp_path)
    backup = shutil.copytree(path, tmp_path / "backup")
    damage(path)
    harness.add("a", digest)
    harness.add("base")
    assert says in failure(harness, "a")
    assert harness.finish("base") == "length"
    assert harness.stats().num_adapter_read_failures == 1
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(backup, path)
    harness.add("b", digest)
    assert harness.finish("b") == "length"


def test_a_read_that_breaks_off(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, digest = cold(harness, tmp_path)

    def broken(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read_checkpoint", broken)
        patch.setattr("motet.adapters.peft_lora.read_checkpoint", broken)
        harness.add("a", digest)
        assert "Input/output error" in failure(harness, "a")
    harness.add("b", digest)
    assert harness.finish("b") == "length"


def test_a_copy_to_the_device_that_breaks(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, digest = cold(harness, tmp_path)

    def broken(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(harness.device_pool, "copy_in", broken)
        harness.add("a", digest)
        assert "the device is gone" in failure(harness, "a")
    assert harness.stats().num_pages_free == NUM_PAGES
    harness.add("b", digest)
    assert harness.finish("b") == "length"


def test_host_memory_full_of_copies_that_are_needed(harness: Harness, tmp_path: Path) -> None:
    """The second waits until the first is on the device, and then takes its place."""
    _, digest = cold(harness, tmp_path)
    other = next(iter(harness.memory.host.copies()))
    harness.memory.host.hold(other)  # as if it were being copied, for long
    harness.add("a", digest)
    harness.add("base")
    assert harness.finish("base") == "length"
    assert harness.end_of("a") is None
    harness.memory.host.let_go(other)
    assert harness.finish("a") == "length"


def test_an_adapter_beyond_the_host_budget_is_refused(harness: Harness, tmp_path: Path) -> None:
    refused = harness.load(adapter(tmp_path, "large", rank=16))
    assert isinstance(refused, AdapterRefused)
    assert refused.code == "adapter_too_large"
    assert "--host-adapter-memory" in refused.message


def test_a_full_pool(harness: Harness, tmp_path: Path) -> None:
    """An adapter waits for pages while everything is in use, and comes when something ends."""
    _, digest = cold(harness, tmp_path)
    for index in range(3):  # each ends with 8 pages, and there are 24
        harness.add(f"full{index}", prompt=[index + 1] * 110, max_tokens=18)
    harness.step_until(lambda: harness.tokens("full2") or None)
    harness.add("a", digest, prompt=[9] * 80, max_tokens=20)
    assert harness.finish("full0") == "length"
    assert harness.tokens("a") == []
    assert harness.finish("a") == "length"
    assert [harness.finish(f"full{index}") for index in range(3)] == ["length"] * 3


def test_an_abort_at_each_stage_leaves_nothing_behind(harness: Harness, tmp_path: Path) -> None:
    _, digest = cold(harness, tmp_path)
    harness.add("reading", digest)
    harness.engine.step()
    assert harness.memory.host.is_reading(digest)
    harness.engine.handle(AbortRequest("reading"))
    harness.step_until(lambda: harness.memory.host.has(digest) or None)
    harness.add("copying", digest)
    harness.engine.step()
    assert harness.memory.residency.is_loading(digest)
    harness.engine.handle(AbortRequest("copying"))
    harness.step_until(lambda: harness.memory.residency.is_resident(digest) or None)
    harness.add("running", digest, max_tokens=30)
    harness.step_until(lambda: harness.tokens("running") or None)
    harness.engine.handle(AbortRequest("running"))
    harness.finish_all_is_well()


def test_unloading_while_it_is_read(harness: Harness, tmp_path: Path) -> None:
    path, digest = cold(harness, tmp_path)
    harness.add("a", digest)
    harness.engine.step()
    harness.engine.handle(ReleaseAdapter(digest, str(path)))
    assert harness.finish("a") == "length"  # it was queued before
    assert not harness.memory.residency.is_known(digest)
    assert not harness.memory.host.has(digest)


def test_another_directory_of_the_same_content_will_do(harness: Harness, tmp_path: Path) -> None:
    path, digest = cold(harness, tmp_path)
    twin = adapter(tmp_path, "twin", rank=RANK, seed=1)
    assert harness.digest(twin) == digest
    shutil.rmtree(twin)
    harness.digest(adapter(tmp_path, "third", rank=RANK, seed=3))
    assert not harness.memory.host.has(digest)
    harness.add("a", digest)
    assert harness.finish("a") == "length"
    assert path.is_dir()


def pin(harness: Harness, digest: str) -> AdapterPinned | AdapterRefused:
    num_sent = len(harness.sent)
    harness.engine.handle(PinAdapter("pin", digest))

    def answer() -> AdapterPinned | AdapterRefused | None:
        for message in harness.sent[num_sent:]:
            if isinstance(message, AdapterPinned | AdapterRefused):
                return message
        return None

    return harness.step_until(answer)


def test_a_pinned_adapter_comes_and_stays(harness: Harness, tmp_path: Path) -> None:
    _, digest = cold(harness, tmp_path)
    assert isinstance(pin(harness, digest), AdapterPinned)
    assert harness.memory.residency.is_resident(digest)  # it is answered no sooner
    for index in range(4):  # 5 pages each: more than there are
        harness.add(f"big{index}", prompt=[index + 1] * 79, max_tokens=18)
    assert [harness.finish(f"big{index}") for index in range(4)] == ["length"] * 4
    assert harness.stats().num_adapter_evictions == 0
    assert harness.stats().num_pages_pinned == ADAPTER_PAGES
    harness.engine.handle(UnpinAdapter(digest))
    assert harness.stats().num_pages_pinned == 0


def test_pins_that_exceed_the_pool_are_refused(harness: Harness, tmp_path: Path) -> None:
    refused = pin(harness, "0" * 64)
    assert isinstance(refused, AdapterRefused)
    assert refused.code == "adapter_not_loaded"
    paths = [adapter(tmp_path, f"a{i}", rank=RANK, seed=i) for i in range(7)]
    digests = [harness.digest(path) for path in paths]
    answers = [pin(harness, digest) for digest in digests]
    assert [isinstance(answer, AdapterPinned) for answer in answers] == [True] * 6 + [False]
    assert isinstance(answers[6], AdapterRefused)
    assert answers[6].code == "pins_exceed_pool"
    for digest in digests:
        harness.engine.handle(UnpinAdapter(digest))


def test_a_pinned_adapter_whose_files_are_gone_is_unpinned(
    harness: Harness, tmp_path: Path
) -> None:
    path, digest = cold(harness, tmp_path)
    shutil.rmtree(path)
    refused = pin(harness, digest)
    assert isinstance(refused, AdapterRefused)
    assert refused.code == "adapter_unavailable"
    assert not harness.memory.residency.is_pinned(digest)


def test_a_pin_on_what_is_let_go_before_it_comes_is_refused(
    harness: Harness, tmp_path: Path
) -> None:
    path, digest = cold(harness, tmp_path)
    harness.engine.handle(PinAdapter("pin", digest))
    assert not isinstance(harness.sent[-1], AdapterPinned)
    harness.engine.handle(ReleaseAdapter(digest, str(path)))
    assert isinstance(harness.sent[-1], AdapterRefused)


def test_the_report_says_where_everything_is(harness: Harness, tmp_path: Path) -> None:
    _, digest = cold(harness, tmp_path)
    other = next(iter(harness.memory.host.copies()))
    harness.add("a", digest, prompt=[1] * 40, max_tokens=30)
    harness.step_until(lambda: harness.tokens("a") or None)
    harness.engine.handle(GetMemory("m"))
    report = harness.sent[-1]
    assert isinstance(report, MemoryReport)
    assert report.operation_id == report.stats.operation_id == "m"
    entries = {entry.digest: entry for entry in report.adapters}
    used = entries[digest]
    assert (used.device_state, used.num_pages, used.num_users) == ("resident", ADAPTER_PAGES, 1)
    assert used.num_prefix_pages == 2  # 40 tokens fill two pages of 16
    assert 0 < report.stats.adapter_fill <= 1
    assert 0 < report.stats.kv_fill <= 1
    assert sum(entry.host_bytes for entry in report.adapters) == report.stats.host_bytes_used
    assert other not in entries or entries[other].device_state is None
    assert report.stats.num_adapters_known == 2
    assert harness.finish("a") == "length"
