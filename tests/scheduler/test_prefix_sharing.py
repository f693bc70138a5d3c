"""Prompts that begin alike, and sequences that come back: what is not computed again.

The fake device fails a step that reads KV of other tokens, of another adapter or another tenant.
"""

import pytest

from motet.scheduler.lookahead import MAX_READS
from tests.scheduler.virtual_engine import VirtualEngine

SYSTEM = ("system prompt", 16)


def computed(engine: VirtualEngine, request_id: str) -> int:
    """Tokens that the next step computes for a request."""
    batch = engine.schedule()
    num_new = {c.sequence.request_id: c.num_new_tokens for c in batch.chunks}
    engine.commit(batch)
    return num_new[request_id]


def test_a_prompt_that_begins_alike_is_computed_from_where_it_differs() -> None:
    engine = VirtualEngine(40, max_step_tokens=32)
    engine.add("first", 20, 3, shared=SYSTEM)
    engine.run_until_done(5)
    engine.add("second", 21, 3, shared=SYSTEM)
    assert computed(engine, "second") == 5
    engine.run_until_done(5)
    assert engine.num_cached_tokens == {"first": 0, "second": 16}
    assert engine.scheduler.pages.num_lookup_tokens == 41
    assert engine.scheduler.pages.num_hit_tokens == 16


def test_an_answer_is_cached_too() -> None:
    """The next turn of a conversation begins with the last one's prompt and answer."""
    engine = VirtualEngine(40, max_step_tokens=32)
    engine.add("turn", 8, 8)
    engine.run_until_done(10)
    request = engine.request("turn", 8, 8)
    conversation = request.prompt_token_ids + engine.finished["turn"]
    found = engine.prefixes.match((None, None), conversation, max_pages=8)
    assert len(found) * engine.page_size == 14  # the last token's KV was never needed


def test_the_last_token_is_always_computed() -> None:
    engine = VirtualEngine(40, max_step_tokens=32)
    for name in ("first", "again"):
        engine.add(name, 16, 1, shared=SYSTEM)
        assert computed(engine, name) == (16 if name == "first" else 2)


@pytest.mark.parametrize(
    ("tenant", "digest", "num_cached"),
    [("t", "a", 16), ("u", "a", 0), (None, "a", 0), ("t", "b", 0), ("t", None, 0)],
)
def test_neither_tenants_nor_adapters_share(
    tenant: str | None, digest: str | None, num_cached: int
) -> None:
    engine = VirtualEngine(60, {"a": 2, "b": 2}, max_step_tokens=64)
    engine.load("a", "b")
    engine.add("first", 20, 2, "a", tenant="t", shared=SYSTEM)
    engine.run_until_done(5)
    engine.add("second", 20, 2, digest, tenant=tenant, shared=SYSTEM)
    engine.run_until_done(5)
    assert engine.num_cached_tokens["second"] == num_cached


def test_sequences_that_run_together_share_pages() -> None:
    engine = VirtualEngine(100, max_step_tokens=64)
    engine.add("first", 20, 8, shared=SYSTEM)
    engine.step()
    num_alone = engine.pool.num_pages - engine.pool.num_free
    engine.add("second", 20, 8, shared=SYSTEM)
    engine.step()
    num_both = engine.pool.num_pages - engine.pool.num_free
    assert num_alone == 10
    assert num_both <= num_alone + 4  # the second's tail, and a page for each to grow into


def test_two_that_compute_the_same_at_once_keep_one_copy() -> None:
    engine = VirtualEngine(100, max_step_tokens=64)
    engine.add("first", 20, 8, shared=SYSTEM)
    engine.add("second", 20, 8, shared=SYSTEM)
    batch = engine.schedule()
    assert [chunk.num_new_tokens for chunk in batch.chunks] == [20, 20]
    engine.commit(batch)
    first, second = (chunk.sequence for chunk in batch.chunks)
    assert first.pages[:8] == second.pages[:8]
    engine.run_until_done(10)


def test_without_the_cache_nothing_is_kept() -> None:
    engine = VirtualEngine(40, keeps_prefixes=False, max_step_tokens=32)
    for name in ("first", "second"):
        engine.add(name, 20, 3, shared=SYSTEM)
        engine.run_until_done(5)
        assert engine.pool.num_free == 40
    assert engine.num_cached_tokens["second"] == 0


def test_what_was_computed_from_bad_numbers_is_not_kept() -> None:
    engine = VirtualEngine(40, max_step_tokens=32)
    engine.add("bad", 20, 6, shared=SYSTEM, fails_at=3)
    engine.run_until_done(6)
    assert engine.pool.num_free == 40


def test_a_neighbour_keeps_what_it_shares_with_one_that_went_bad() -> None:
    engine = VirtualEngine(40, max_step_tokens=32)
    engine.add("good", 20, 8, shared=SYSTEM)
    engine.step()
    engine.add("bad", 20, 6, shared=SYSTEM, fails_at=1)
    engine.run_until_done(10)
    assert engine.prefixes.num_idle_pages >= 8


def test_a_preempted_sequence_comes_back_cheaply() -> None:
    """It computes again what the old one needed pages for, and no more."""
    engine = VirtualEngine(20, max_step_tokens=64)
    engine.add("old", 10, 20)
    engine.add("young", 20, 6)
    num_computed = 0
    while "old" not in engine.finished:
        batch = engine.schedule()
        num_computed += sum(
            chunk.num_new_tokens for chunk in batch.chunks if chunk.sequence.request_id == "young"
        )
        engine.commit(batch)
    before = num_computed
    assert engine.scheduler.num_preemptions >= 1
    while engine.live:
        batch = engine.schedule()
        num_computed += batch.num_tokens
        engine.commit(batch)
    assert num_computed < 2 * 25  # what two computations from the start would take
    # The old one ended with 30 tokens in 15 of the 20 pages: 5 pages of the young one stayed.
    assert num_computed - before == 25 - 10


def test_a_preempted_sequence_waits_until_the_others_can_grow() -> None:
    """Else it would be thrown out again in the next step."""
    engine = VirtualEngine(12, max_step_tokens=64, page_size=2)
    engine.add("old", 4, 16)
    engine.add("young", 8, 8)
    engine.run_until_done(60)
    assert engine.scheduler.num_preemptions <= 2


def test_a_cold_adapter_on_disk_delays_nobody_else() -> None:
    engine = VirtualEngine(60, {f"cold{i}": 3 for i in range(9)}, host_budget_pages=20)
    for index in range(9):
        engine.add(f"waits{index}", 4, 3, f"cold{index}")
    engine.add("base", 4, 3)
    for _ in range(3):
        engine.step()
    assert list(engine.finished) == ["base"]
    assert len(engine.reading) == MAX_READS
    assert not engine.loading


def test_reads_follow_the_queue_within_the_host_budget() -> None:
    engine = VirtualEngine(
        12, {f"d{i}": 3 for i in range(6)}, host_budget_pages=6, max_running=1, page_size=2
    )
    for index in range(6):
        engine.add(f"r{index}", 2, 2, f"d{index}")
    engine.step()
    assert engine.reading == {"d0", "d1"}  # all that host memory has room for
    engine.run_until_done(40)
    assert list(engine.finished) == [f"r{i}" for i in range(6)]
    assert engine.host.num_evictions >= 4


def test_a_read_that_fails_ends_its_requests_and_the_next_read_works() -> None:
    engine = VirtualEngine(20, {"a": 3}, host_budget_pages=6)
    engine.add("adapted", 4, 3, "a")
    engine.add("base", 4, 3)
    engine.step()
    engine.fail_read("a")
    assert list(engine.live) == ["base"]
    assert engine.host.num_pages == 0
    engine.add("again", 4, 3, "a")
    engine.run_until_done(10)
    assert list(engine.finished) == ["base", "again"]


@pytest.mark.parametrize("num_adapters", [60, 1000])
def test_adapters_are_copied_about_once_for_each_request(num_adapters: int) -> None:
    """Copies are not started for so many ahead that growth has to throw them out again."""
    engine = VirtualEngine(
        120,
        {f"d{i}": 5 for i in range(num_adapters)},
        page_size=4,
        max_step_tokens=64,
        max_running=32,
        host_budget_pages=60,
    )
    for index in range(120):
        digest = f"d{index * 7919 % num_adapters}"
        engine.add(f"r{index}", 2 + index % 19, 2 + index % 17, digest)
    engine.run_until_done(1000)
    assert engine.residency.num_loads <= 1.1 * 120


def test_a_hot_adapter_stays_while_cold_ones_pass() -> None:
    engine = VirtualEngine(24, {"hot": 6, **{f"cold{i}": 6 for i in range(40)}}, page_size=4)
    for index in range(10):
        engine.add(f"warm-up{index}", 2, 2, "hot")
        engine.run_until_done(10)
    for index in range(40):
        engine.add(f"r{index}", 4, 3, f"cold{index}")
        engine.run_until_done(10)
    assert engine.residency.is_resident("hot")
    assert engine.residency.num_loads == 41


def test_a_pinned_adapter_comes_without_a_request_and_stays() -> None:
    engine = VirtualEngine(16, {"pinned": 6, "other": 6}, host_budget_pages=12)
    assert engine.scheduler.may_pin("pinned")
    engine.residency.pin("pinned")
    assert not engine.scheduler.may_pin("other")  # together they would take more than half
    engine.step()
    engine.finish_loads()
    engine.step()
    engine.finish_loads()
    assert engine.residency.is_resident("pinned")
    assert not engine.scheduler.capacity.fits(engine.request("big", 20, 2))
    engine.add("large", 18, 2)
    engine.run_until_done(20)
    assert engine.residency.is_resident("pinned")
    engine.residency.unpin("pinned")
    engine.add("big", 28, 2)
    engine.run_until_done(10)
    assert not engine.residency.is_resident("pinned")


def test_no_pin_makes_a_queued_request_impossible() -> None:
    engine = VirtualEngine(16, {"a": 6})
    engine.add("big", 28, 2)
    assert not engine.scheduler.may_pin("a")
    engine.run_until_done(10)
    assert engine.scheduler.may_pin("a")


def test_a_static_partition_gives_each_part_its_own() -> None:
    engine = VirtualEngine(20, {"a": 4, "b": 4}, num_adapter_pages=8, max_step_tokens=64)
    assert not engine.scheduler.capacity.fits(engine.request("r", 24, 2))
    assert engine.scheduler.capacity.fits(engine.request("r", 22, 2, "a"))
    for index in range(6):
        engine.add(f"r{index}", 10, 6, "ab"[index % 2])
    engine.run_until_done(60)
    assert engine.pool.num_owned("adapter") <= 8
