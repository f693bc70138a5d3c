"""Defaults that come from the model and the machine, and options that contradict them."""

import os
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest
import torch

from motet.core.config import EngineConfig
from motet.core.errors import ConfigError
from motet.engine import build
from motet.engine.resolve import (
    resolve_adapter_pages,
    resolve_device,
    resolve_geometry,
    resolve_host_budget_pages,
    resolve_max_model_len,
    resolve_num_pages,
    resolve_num_threads,
)
from motet.memory.device_pool import num_pages_in
from motet.memory.geometry import PageGeometry
from tests.adapters.make import TINY

CPU = torch.device("cpu")


def test_the_device_is_what_there_is() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device(EngineConfig()).type == expected
    assert resolve_device(EngineConfig(device="cpu")) == CPU


@pytest.mark.parametrize("device", ["foo", "cuda:x", "", "meta", "cpu:0:1"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="give cpu, cuda") as refused:
        resolve_device(EngineConfig(device=device))
    assert refused.value.param == "device"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no GPU"):
        resolve_device(EngineConfig(device="cuda"))


def test_a_gpu_beyond_those_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device(EngineConfig(device="cuda:1")) == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=r"cuda:2.*2 GPUs, numbered from 0") as refused:
        resolve_device(EngineConfig(device="cuda:2"))
    assert refused.value.param == "device"


def test_threads_are_the_cores_that_this_process_may_use() -> None:
    assert resolve_num_threads(EngineConfig()) == len(os.sched_getaffinity(0))
    assert resolve_num_threads(EngineConfig(num_threads=1)) == 1


class _LoadError(Exception):
    """What a decoder would have been loaded with."""


@pytest.fixture
def load_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def load(_: Path, device: torch.device, dtype: torch.dtype, storage: torch.dtype) -> None:
        raise _LoadError(device, dtype, storage)

    num_threads = torch.get_num_threads(), numba.get_num_threads()
    monkeypatch.setattr(build, "load_decoder", load)
    yield
    torch.set_num_threads(num_threads[0])
    numba.set_num_threads(num_threads[1])


@pytest.mark.usefixtures("load_nothing")
def test_the_weights_are_stored_as_asked(tmp_path: Path) -> None:
    for weights, storage in [
        (None, torch.float32),
        ("bfloat16", torch.bfloat16),
        ("int8", torch.int8),
    ]:
        config = EngineConfig(model=str(tmp_path), device="cpu", weights=weights)
        with pytest.raises(_LoadError) as loaded:
            build.build_engine(config, lambda: None, lambda _: None)
        assert loaded.value.args == (CPU, torch.float32, storage)


@pytest.mark.usefixtures("load_nothing")
@pytest.mark.parametrize(("dtype", "weights"), [(None, "int4"), ("bfloat16", "int8")])
def test_weights_that_cannot_be_are_refused_before_any_is_loaded(
    dtype: str | None, weights: str, tmp_path: Path
) -> None:
    config = EngineConfig(model=str(tmp_path), device="cpu", dtype=dtype, weights=weights)
    with pytest.raises(ConfigError) as refused:
        build.build_engine(config, lambda: None, lambda _: None)
    assert refused.value.param == "weights"


def test_the_context_is_what_the_model_takes_or_less() -> None:
    assert resolve_max_model_len(EngineConfig(), 100) == 100
    assert resolve_max_model_len(EngineConfig(max_model_len=60), 100) == 60
    with pytest.raises(ConfigError, match="the model takes 100"):
        resolve_max_model_len(EngineConfig(max_model_len=101), 100)


def test_the_page_holds_the_longest_row() -> None:
    assert resolve_geometry(EngineConfig(), TINY).page_elems >= TINY.longest_row
    assert resolve_geometry(EngineConfig(page_size=32), TINY).page_size == 32
    with pytest.raises(ConfigError, match="page_size 1 gives"):
        resolve_geometry(EngineConfig(page_size=1), TINY)


def test_host_memory_for_adapters_is_as_large_as_asked_or_a_share_of_what_is_free() -> None:
    assert resolve_host_budget_pages(EngineConfig(host_adapter_bytes=1000), 100, 0) == 10
    assert resolve_host_budget_pages(EngineConfig(), 1 << 12, 0) > 0
    with pytest.raises(ConfigError, match="--host-adapter-memory at least 6400"):
        resolve_host_budget_pages(EngineConfig(host_adapter_bytes=99), 100, 0)


def test_a_static_partition_leaves_both_parts_pages() -> None:
    assert resolve_adapter_pages(EngineConfig(), 10) is None
    assert resolve_adapter_pages(EngineConfig(static_adapter_pages=9), 10) == 9
    for num_pages in (0, 10, -1):
        with pytest.raises(ConfigError, match="give 1 to 9"):
            resolve_adapter_pages(EngineConfig(static_adapter_pages=num_pages), 10)


def test_the_pool_is_as_large_as_asked_or_a_share_of_what_is_free() -> None:
    geometry = PageGeometry(TINY, 16)
    budget_bytes = 100 * geometry.page_bytes(4)
    asked = EngineConfig(pool_memory_bytes=budget_bytes)
    assert 50 < resolve_num_pages(asked, geometry, torch.float32, CPU) <= 100
    assert resolve_num_pages(EngineConfig(), geometry, torch.float32, CPU) > 100
    with pytest.raises(ConfigError, match="--pool-memory at least"):
        resolve_num_pages(EngineConfig(pool_memory_bytes=1), geometry, torch.float32, CPU)


def test_a_gpu_keeps_room_for_the_logits_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that took nearly all of a small GPU would leave none for a large vocabulary."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 34))
    geometry = PageGeometry(TINY, 16)
    logits_bytes = 4 * TINY.vocab_size
    few, many = (
        resolve_num_pages(EngineConfig(max_running=n), geometry, torch.float32, cuda)
        for n in (1, (1 << 26) // logits_bytes)
    )
    assert few > many > 0
    expected = num_pages_in(geometry, int(0.85 * 9 * (1 << 26)), torch.float32)
    assert few - many == pytest.approx(expected, abs=2)
    too_many = EngineConfig(max_running=(1 << 28) // logits_bytes)
    with pytest.raises(ConfigError, match="give --pool-memory at least"):
        resolve_num_pages(too_many, geometry, torch.float32, cuda)
