"""Routed sets and compositions between disk, host memory and device: loaded whole, kept whole.

The fixture checks after each test that nothing is left behind. The runner is a fake one.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from motet.core.messages import (
    AdapterLoaded,
    AdapterPinned,
    AdapterRefused,
    PinAdapter,
    ReleaseAdapter,
    RequestFailed,
    UnpinAdapter,
    WeightedAdapter,
)
from tests.adapters.make import AdapterSpec
from tests.adapters.make_routed import SetOnDisk, write_set
from tests.engine.harness import NUM_PAGES, SHAPE, Harness, adapter


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    harness.finish_all_is_well()
    harness.engine.close()


def a_set(tmp_path: Path, name: str = "set", **options: object) -> SetOnDisk:
    defaults = {"num_experts": 2, "shape": SHAPE}
    return write_set(tmp_path / name, **(defaults | options))  # type: ignore[arg-type]


def load(harness: Harness, on_disk: SetOnDisk) -> AdapterLoaded:
    loaded = harness.load(on_disk.directory, on_disk.members)
    assert isinstance(loaded, AdapterLoaded), loaded
    return loaded


def release(harness: Harness, digest: str, path: Path) -> None:
    harness.engine.handle(ReleaseAdapter(digest, str(path)))


def pin(harness: Harness, digest: str) -> str:
    operation_id = f"pin-{len(harness.sent)}"
    harness.engine.handle(PinAdapter(operation_id, digest))
    return operation_id


def pin_answer(harness: Harness, operation_id: str) -> AdapterPinned | AdapterRefused:
    return harness.step_until(
        lambda: next(
            (
                message
                for message in harness.sent
                if isinstance(message, AdapterPinned | AdapterRefused)
                and message.operation_id == operation_id
            ),
            None,
        )
    )


def test_a_set_is_told_as_one_with_its_members_counted_in(harness: Harness, tmp_path: Path) -> None:
    on_disk = a_set(tmp_path, shared=[AdapterSpec(rank=2, seed=70)])
    info = load(harness, on_disk).info
    assert info.routed is not None
    assert (info.routed.method, info.routed.names) == ("meteora", ["e0", "e1"])
    members = [harness.digest(path) for path in on_disk.members]
    assert [*info.routed.experts, *info.routed.shared] == members
    residency = harness.memory.residency
    assert residency.adapters(info.digest) == (info.digest, *members)
    assert info.num_pages == sum(map(residency.num_pages, (info.digest, *members)))
    assert info.max_rank == 4
    assert harness.stats().num_adapters_known == 4


@pytest.mark.parametrize("method", ["meteora", "mixlora", "arrow", "smora", "mora"])
def test_its_requests_run_when_all_members_are_there(
    harness: Harness, tmp_path: Path, method: str
) -> None:
    digest = load(harness, a_set(tmp_path, method=method)).info.digest
    adapters = {*harness.memory.residency.adapters(digest)}
    harness.add("a", digest)
    harness.step_until(lambda: harness.tokens("a") or None)
    assert {*harness.stats().running_adapters} == adapters
    assert {*harness.stats().resident_adapters} == adapters
    assert harness.finish("a") == "length"
    stats = harness.stats()
    assert (stats.num_adapter_hits, stats.num_adapter_misses) == (0, 1)
    assert 0.0 < stats.adapter_fill <= 1.0
    harness.add("b", digest)
    assert harness.finish("b") == "length"
    assert harness.stats().num_adapter_hits == 1


def test_an_expert_that_is_missing_or_another_has_the_whole_set_refused(
    harness: Harness, tmp_path: Path
) -> None:
    on_disk = a_set(tmp_path)
    backup = shutil.copytree(on_disk.members[1], tmp_path / "backup")
    shutil.rmtree(on_disk.members[1])
    assert isinstance(harness.load(on_disk.directory, on_disk.members), AdapterRefused)
    adapter(on_disk.members[1].parent, on_disk.members[1].name, rank=4, seed=99)
    assert isinstance(harness.load(on_disk.directory, on_disk.members), AdapterRefused)
    assert isinstance(harness.load(on_disk.directory, on_disk.members[:1]), AdapterRefused)
    stats = harness.stats()
    assert (stats.num_adapters_known, stats.num_adapters_on_host) == (0, 0)
    shutil.rmtree(on_disk.members[1])
    shutil.copytree(backup, on_disk.members[1])
    load(harness, on_disk)


def test_a_set_larger_than_the_pool_is_refused(harness: Harness, tmp_path: Path) -> None:
    on_disk = a_set(tmp_path, num_experts=8)
    refused = harness.load(on_disk.directory, on_disk.members)
    assert isinstance(refused, AdapterRefused)
    assert refused.code == "adapter_too_large"
    assert harness.stats().num_adapters_known == 0


def test_an_expert_stays_for_the_set_when_its_own_name_goes(
    harness: Harness, tmp_path: Path
) -> None:
    on_disk = a_set(tmp_path)
    expert = harness.digest(on_disk.members[0])
    digest = load(harness, on_disk).info.digest
    release(harness, expert, on_disk.members[0])
    harness.add("set", digest)
    assert harness.finish("set") == "length"
    harness.add("expert", expert)  # the set refers to it
    assert harness.finish("expert") == "length"
    release(harness, digest, on_disk.directory)
    assert harness.stats().num_adapters_known == 0
    harness.add("gone", digest)
    assert harness.finish("gone") == "adapter_not_loaded"


def test_a_set_drains_with_its_members(harness: Harness, tmp_path: Path) -> None:
    on_disk = a_set(tmp_path)
    digest = load(harness, on_disk).info.digest
    load(harness, on_disk)
    release(harness, digest, on_disk.directory)
    harness.add("a", digest, max_tokens=9)
    harness.step_until(lambda: harness.tokens("a") or None)
    release(harness, digest, on_disk.directory)
    assert harness.stats().num_adapters_known == 3
    assert harness.finish("a") == "length"
    assert harness.stats().num_adapters_known == 0
    assert harness.stats().num_pages_free == NUM_PAGES


def test_members_come_back_from_disk_one_by_one(tmp_path: Path) -> None:
    """Host memory holds one of them at a time, so each is read when its turn comes."""
    on_disk = a_set(tmp_path)
    harness = Harness(host_budget_pages=4)
    digest = load(harness, on_disk).info.digest
    sizes = list(map(harness.memory.residency.num_pages, harness.memory.residency.adapters(digest)))
    assert sum(sizes) > 4 >= max(sizes)
    harness.add("a", digest)
    assert harness.finish("a") == "length"
    for index in range(3):  # push all of it off the device
        harness.add(f"full{index}", prompt=[index + 1] * 110, max_tokens=18)
    assert harness.finish("full2") == "length"
    assert harness.stats().num_adapter_evictions > 0
    harness.add("b", digest)
    assert harness.finish("b") == "length"
    harness.finish_all_is_well()
    harness.engine.close()


def test_gates_that_have_changed_on_disk_fail_the_requests(tmp_path: Path) -> None:
    on_disk = a_set(tmp_path)
    harness = Harness(host_budget_pages=4)
    digest = load(harness, on_disk).info.digest
    harness.digest(adapter(tmp_path, "other", rank=4, seed=5))
    assert not harness.memory.host.has(digest)
    on_disk.rewrite(temperature=9.0)
    harness.add("a", digest)
    assert harness.finish("a") == "adapter_unavailable"
    failed = next(message for message in harness.sent if isinstance(message, RequestFailed))
    assert "changed since it was loaded" in failed.message
    on_disk.rewrite()
    harness.add("b", digest)
    assert harness.finish("b") == "length"
    harness.finish_all_is_well()
    harness.engine.close()


def test_two_sets_that_do_not_fit_together_take_turns(harness: Harness, tmp_path: Path) -> None:
    first = load(harness, a_set(tmp_path, "one", num_experts=3)).info
    second = load(harness, a_set(tmp_path, "two", num_experts=3, seed=40)).info
    num_kv_pages = 6
    assert first.num_pages + second.num_pages + num_kv_pages > NUM_PAGES
    prompt = list(range(16 * num_kv_pages - 4))
    for index in range(6):
        digest = (first, second)[index % 2].digest
        harness.add(f"r{index}", digest, prompt=[50 + index, *prompt], max_tokens=3)
    assert [harness.finish(f"r{index}") for index in range(6)] == ["length"] * 6


def test_a_pin_on_a_set_is_one_on_all_its_members(harness: Harness, tmp_path: Path) -> None:
    on_disk = a_set(tmp_path)
    digest = load(harness, on_disk).info.digest
    expert = harness.digest(on_disk.members[0])
    adapters = harness.memory.residency.adapters(digest)
    assert isinstance(pin_answer(harness, pin(harness, digest)), AdapterPinned)
    assert isinstance(pin_answer(harness, pin(harness, expert)), AdapterPinned)
    residency = harness.memory.residency
    assert {*residency.pinned()} == {*adapters}
    for index in range(3):
        harness.add(f"full{index}", prompt=[index + 1] * 110, max_tokens=18)
    assert [harness.finish(f"full{index}") for index in range(3)] == ["length"] * 3
    assert {*adapters} <= {*residency.resident()}
    harness.engine.handle(UnpinAdapter(digest))
    assert residency.pinned() == [expert]
    harness.engine.handle(UnpinAdapter(digest))  # one too many
    assert residency.pinned() == [expert]
    harness.engine.handle(UnpinAdapter(expert))
    assert residency.pinned() == []


def test_a_pin_on_a_set_whose_member_cannot_come_is_refused_and_taken_back(tmp_path: Path) -> None:
    on_disk = a_set(tmp_path)
    harness = Harness(host_budget_pages=4)
    digest = load(harness, on_disk).info.digest
    shutil.rmtree(on_disk.members[1])
    shutil.rmtree(on_disk.members[0])
    refused = pin_answer(harness, pin(harness, digest))
    assert isinstance(refused, AdapterRefused)
    assert refused.code == "adapter_unavailable"
    assert harness.memory.residency.pinned() == []
    harness.finish_all_is_well()
    harness.engine.close()


def test_a_set_that_is_let_go_takes_its_pins_along(harness: Harness, tmp_path: Path) -> None:
    on_disk = a_set(tmp_path)
    digest = load(harness, on_disk).info.digest
    expert = harness.digest(on_disk.members[0])
    assert isinstance(pin_answer(harness, pin(harness, digest)), AdapterPinned)
    release(harness, digest, on_disk.directory)
    assert harness.memory.residency.pinned() == []
    assert harness.memory.residency.is_known(expert)
    assert harness.stats().num_adapters_known == 1


def test_a_composition_needs_all_its_parts(harness: Harness, tmp_path: Path) -> None:
    paths = [adapter(tmp_path, f"p{i}", seed=i) for i in range(2)]
    parts = [WeightedAdapter(harness.digest(path), 0.5) for path in paths]
    routed = load(harness, a_set(tmp_path)).info.digest
    harness.add("sum", "of two", parts=parts, prompt=[5] * 40)
    assert harness.finish("sum") == "length"
    assert harness.stats().num_pages_cached_prefix > 0
    harness.add("set", "of a set", parts=[parts[0], WeightedAdapter(routed, 1.0)])
    assert harness.finish("set") == "adapter_not_loaded"
    release(harness, parts[0].digest, paths[0])  # what was computed with it goes along
    assert harness.stats().num_pages_cached_prefix == 0
    harness.add("again", "of two", parts=parts)
    assert harness.finish("again") == "adapter_not_loaded"


def test_many_compositions_leave_nothing_behind(harness: Harness, tmp_path: Path) -> None:
    path = adapter(tmp_path, "one")
    digest = harness.digest(path)
    for index in range(60):
        parts = [WeightedAdapter(digest, 0.01 * (index + 1))]
        harness.add(f"r{index}", f"composition {index}", parts=parts, prompt=[7] * 40)
        assert harness.finish(f"r{index}") == "length"
    prefixes = harness.memory.prefixes
    assert len(prefixes._parts_of) <= NUM_PAGES
    release(harness, digest, path)
    assert not prefixes._parts_of
    assert harness.stats().num_pages_free == NUM_PAGES
