"""What the scheduler promises, one example each. The rules of `rules.py` are checked throughout."""

import random

import pytest

from motet.memory.page_pool import PoolCorruptionError
from motet.scheduler.sequence import Batch
from tests.scheduler.virtual_engine import VirtualEngine


def sizes(batch: Batch) -> dict[str, int]:
    """New tokens by request."""
    return {chunk.sequence.request_id: chunk.num_new_tokens for chunk in batch.chunks}


def test_with_nothing_to_do_the_batch_is_empty() -> None:
    engine = VirtualEngine(4)
    assert engine.step() == []
    assert engine.schedule().num_tokens == 0


def test_a_request_runs_to_its_length() -> None:
    engine = VirtualEngine(8)
    engine.add("a", 5, 3)
    outputs = [engine.step() for _ in range(3)]
    assert [[output.finish_reason for output in step] for step in outputs] == [
        [None],
        [None],
        ["length"],
    ]
    assert engine.num_pages_unused == 8


def test_outputs_say_how_long_their_request_waited() -> None:
    """Until it first ran; that it was preempted later does not count."""
    now_s = 0.0
    engine = VirtualEngine(6, max_running=1, clock=lambda: now_s)
    outputs = []
    for num_prompt_tokens, max_tokens in [(5, 3), (5, 2), (5, 0)]:
        engine.add(f"{max_tokens} tokens", num_prompt_tokens, max_tokens)
        now_s += 1.0
    for _ in range(6):
        outputs += engine.step()
        now_s += 1.0
    assert [(output.request_id, output.queue_s) for output in outputs] == [
        *[("3 tokens", 3.0)] * 3,  # queued at 0, runs from 3 to 5
        *[("2 tokens", 5.0)] * 2,  # queued at 1, runs from 6 to 7
        ("0 tokens", 6.0),  # queued at 2, runs at 8
    ]


def test_a_stop_token_ends_it_and_is_delivered() -> None:
    engine = VirtualEngine(40)
    engine.add("a", 3, 60, stop_token_ids=tuple(range(0, 97, 7)))
    engine.run_until_done(60)
    output = engine.finished["a"]
    assert len(output) < 60
    assert output[-1] % 7 == 0
    assert all(token % 7 for token in output[:-1])


def test_logits_that_are_not_finite_end_one_request_only() -> None:
    engine = VirtualEngine(20)
    engine.add("bad", 3, 6, fails_at=2)
    engine.add("good", 3, 6)
    reasons: dict[str, str] = {}
    while engine.live:
        reasons |= {o.request_id: o.finish_reason for o in engine.step() if o.finish_reason}
    assert reasons == {"bad": "error", "good": "length"}
    assert [len(engine.finished[request]) for request in ("bad", "good")] == [2, 6]
    assert engine.num_pages_unused == 20


def test_decodes_and_prefill_chunks_share_a_step() -> None:
    engine = VirtualEngine(40, max_step_tokens=8)
    engine.add("short", 3, 10)
    engine.step()
    engine.add("long", 20, 2)
    batches = []
    for _ in range(4):
        batch = engine.schedule()
        batches.append(sizes(batch))
        outputs = {output.request_id for output in engine.commit(batch)}
        assert ("long" in outputs) == (len(batches) >= 3)  # a chunk before the last gives nothing
    assert batches == [
        {"short": 1, "long": 7},
        {"short": 1, "long": 7},
        {"short": 1, "long": 6},
        {"short": 1, "long": 1},
    ]


def test_an_old_prefill_does_not_stall_younger_decodes() -> None:
    """The long prompt came first, but its adapter had to be copied: then it catches up."""
    engine = VirtualEngine(60, {"cold": 2}, max_step_tokens=8)
    engine.add("long", 40, 2, "cold")
    engine.add("short", 2, 20)
    engine.step()
    engine.finish_loads()
    for _ in range(5):
        batch = engine.schedule()
        assert sizes(batch) == {"short": 1, "long": 7}
        engine.commit(batch)


def test_the_step_budget_leaves_the_youngest_out() -> None:
    engine = VirtualEngine(40, max_step_tokens=3)
    for index in range(5):
        engine.add(f"r{index}", 1, 8)
    assert list(sizes(engine.schedule())) == ["r0", "r1", "r2"]


def test_no_more_run_than_may() -> None:
    engine = VirtualEngine(40, max_running=2)
    for index in range(4):
        engine.add(f"r{index}", 2, 3)
    engine.step()
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting) == (2, 2)
    engine.run_until_done(20)
    assert list(engine.finished) == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize("seed", range(5))
def test_a_tiny_pool_gives_the_tokens_of_a_large_one(seed: int) -> None:
    rng = random.Random(seed)
    requests = [
        (f"r{i}", rng.randint(1, 12), rng.randint(4, 16), rng.choice([None, "a", "b"]))
        for i in range(12)
    ]
    finished = {}
    for num_pages in (18, 1000):
        engine = VirtualEngine(num_pages, {"a": 2, "b": 4}, max_step_tokens=10)
        for request in requests:
            engine.add(*request)
        engine.run_until_done(2000)
        finished[num_pages] = engine.finished
        assert (engine.scheduler.num_preemptions > 0) == (num_pages == 18)
    assert finished[18] == finished[1000]


def test_the_youngest_is_preempted_and_returns_to_its_place() -> None:
    engine = VirtualEngine(6, page_size=2)
    engine.add("old", 4, 6)
    engine.add("young", 4, 6)
    engine.add("later", 1, 1)  # waits: max_running is not the limit, pages are
    while not engine.scheduler.num_preemptions:
        engine.step()
    assert engine.live["old"].is_running
    assert not engine.live["young"].is_running
    engine.run_until_done(40)
    order = list(engine.finished)
    assert order.index("old") < order.index("young")


def test_one_that_was_overtaken_is_still_the_older() -> None:
    """The old one was admitted last, its adapter being copied; the young one is preempted."""
    engine = VirtualEngine(8, {"cold": 2}, page_size=2)
    engine.add("old", 2, 8, "cold")
    engine.add("young", 2, 8)
    engine.step()
    engine.finish_load("cold")
    while not engine.scheduler.num_preemptions:
        engine.step()
    assert engine.live["old"].is_running
    assert not engine.live["young"].is_running
    engine.run_until_done(30)


def test_a_big_request_is_not_starved_by_small_ones() -> None:
    engine = VirtualEngine(12)
    engine.add("first", 2, 8)
    engine.step()
    engine.add("big", 20, 4)
    for index in range(100):
        engine.add(f"small{index}", 2, 2)
    while "big" not in engine.finished:
        engine.step()
    assert list(engine.finished) == ["first", "big"]  # it keeps all pages until it ends


@pytest.mark.parametrize("seed", range(20))
def test_a_big_request_with_a_cold_adapter_is_not_starved_either(seed: int) -> None:
    """Others pass while its adapter is copied, but they do not evict what was copied for it."""
    rng = random.Random(seed)
    engine = VirtualEngine(24, {"cold": 6}, max_running=4)
    for index in range(4):
        engine.add(f"first{index}", 2, rng.randint(10, 11))
    engine.step()
    engine.add("big", 35, 1, "cold")
    num_small = 0
    copy_ends: int | None = None
    was_resident = False  # with none left that is older than the big one
    for step in range(200):
        while engine.scheduler.num_waiting < 3:
            engine.add(f"small{num_small}", 2, rng.randint(10, 11))
            num_small += 1
        engine.step()
        if "big" in engine.finished:
            break
        if engine.loading and copy_ends is None:
            copy_ends = step + 4
        if step == copy_ends:
            engine.finish_loads()
            copy_ends = None
        is_resident = engine.residency.is_resident("cold")
        assert is_resident or not was_resident, "one behind evicted it"
        was_resident = is_resident and all(f"first{index}" in engine.finished for index in range(4))
    assert "big" in engine.finished


def test_a_cold_adapter_delays_nobody_else() -> None:
    engine = VirtualEngine(40, {"cold": 3, "warm": 3}, max_running=3)
    engine.load("warm")
    engine.add("waits", 4, 3, "cold")
    engine.add("base", 4, 3)
    engine.add("adapted", 4, 3, "warm")
    batch = engine.schedule()
    assert sizes(batch) == {"base": 4, "adapted": 4}
    engine.commit(batch)
    engine.add("late", 4, 3)  # came while the copy was under way
    batch = engine.schedule()
    assert sizes(batch) == {"base": 1, "adapted": 1, "late": 4}
    engine.commit(batch)
    engine.step()
    assert list(engine.finished) == ["base", "adapted"]
    assert engine.scheduler.waiting_adapters() == {"cold"}
    engine.finish_load("cold")
    assert sizes(engine.schedule()) == {"late": 1, "waits": 4}


def test_a_copy_is_started_once_for_all_who_wait() -> None:
    engine = VirtualEngine(40, {"cold": 3})
    for index in range(3):
        engine.add(f"r{index}", 4, 3, "cold")
    for _ in range(3):
        assert engine.step() == []
    assert engine.residency.num_loads == 1
    engine.finish_load("cold")
    assert list(sizes(engine.schedule())) == ["r0", "r1", "r2"]


def test_copies_start_ahead_of_admission() -> None:
    """A request that has to wait for its turn finds its adapter there when the turn comes."""
    engine = VirtualEngine(40, {"a": 2, "b": 2}, max_running=1)
    engine.add("first", 2, 4)
    engine.add("second", 2, 2, "a")
    engine.add("third", 2, 2)
    engine.add("fourth", 2, 2, "b")
    engine.step()
    assert sorted(engine.loading) == ["a", "b"]
    engine.finish_loads()
    for _ in range(3 + 2 + 2 + 2):
        assert len(engine.step()) == 1  # no step is lost to a copy
    assert list(engine.finished) == ["first", "second", "third", "fourth"]


def test_adapters_of_those_ahead_are_not_evicted_for_those_behind() -> None:
    engine = VirtualEngine(8, {"a": 3, "b": 3, "c": 3}, max_running=1)
    engine.load("a", "b")
    engine.add("running", 1, 1)
    for digest in "abc":
        engine.add(digest, 2, 2, digest)
    engine.step()
    assert sorted(engine.residency.resident()) == ["a", "b"]  # no room for c, and none was made
    assert engine.loading == {}


def test_a_running_sequence_evicts_no_adapter_that_an_older_one_waits_with() -> None:
    engine = VirtualEngine(12, {"cold": 4})
    engine.add("old", 15, 1, "cold")  # needs the whole pool
    engine.add("young", 2, 18)  # passes while the adapter is copied, and grows
    engine.step()
    engine.finish_load("cold")
    while engine.live["young"].is_running:
        assert engine.residency.is_resident("cold")
        engine.step()
    assert engine.scheduler.num_preemptions == 1  # the young one went, not the adapter
    engine.run_until_done(30)
    assert list(engine.finished) == ["old", "young"]
    assert engine.residency.num_loads == 1


def test_growing_takes_the_adapter_that_is_needed_last() -> None:
    """The queue waits with a, b, c in this order, a being the least recently used."""
    engine = VirtualEngine(8, {"a": 2, "b": 2, "c": 2}, max_running=1, page_size=2)
    engine.add("running", 4, 8)
    engine.load("a", "b", "c")
    for digest in "abc":
        engine.add(digest, 2, 2, digest)
    engine.step()  # the prompt: the pool is full
    assert engine.pool.num_free == 0
    engine.step()  # the first decode needs a page
    assert sorted(engine.residency.resident()) == ["a", "b"]
    assert engine.loading == {}  # nothing was started that would have to go again


def test_growing_takes_an_adapter_that_nobody_waits_for_first() -> None:
    engine = VirtualEngine(6, {"wanted": 2, "unwanted": 2}, max_running=1, page_size=2)
    engine.add("running", 4, 6)
    engine.load("wanted", "unwanted")
    engine.add("waits", 2, 2, "wanted")
    engine.step()
    engine.step()
    assert list(engine.residency.resident()) == ["wanted"]


def test_the_pool_is_filled_again_by_evicting_idle_adapters() -> None:
    engine = VirtualEngine(10, {"idle": 6})
    engine.load("idle")
    engine.add("big", 16, 4)
    engine.run_until_done(4)
    assert not engine.residency.is_resident("idle")
    assert engine.residency.num_evictions == 1


def test_an_adapter_waits_for_a_stretch_of_table_rows() -> None:
    """Pages suffice, but the free rows are in two pieces: an idle adapter has to move out."""
    engine = VirtualEngine(9, {"a": 3, "b": 3, "c": 2, "wide": 4})
    engine.load("a", "b", "c")
    assert engine.residency.forget("a")
    engine.add("uses_b", 1, 3, "b")
    engine.step()
    engine.add("waits", 1, 1, "wide")
    engine.run_until_done(20)
    assert engine.residency.num_evictions >= 1


def test_abort_frees_everything_at_once() -> None:
    engine = VirtualEngine(20, {"a": 3})
    engine.load("a")
    engine.add("decoding", 4, 9, "a")
    engine.step()
    engine.add("prefilling", 18, 9)
    engine.step()
    engine.add("waiting", 8, 9, "a")
    assert engine.pool.num_owned("kv") > 0
    for request_id in ("waiting", "prefilling", "decoding"):
        engine.abort(request_id)
    assert engine.pool.num_owned("kv") == 0
    assert engine.num_pages_unused == 20
    assert not engine.scheduler.uses_adapter("a")
    engine.forget("a")
    assert engine.pool.num_owned("adapter") == 0
    assert engine.num_pages_unused == 20
    assert not engine.scheduler.abort("decoding")
    assert engine.step() == []


def test_a_request_aborted_during_the_copy_leaves_the_adapter_idle() -> None:
    engine = VirtualEngine(20, {"a": 3})
    engine.add("r", 4, 3, "a")
    engine.step()
    engine.abort("r")
    assert not engine.residency.forget("a")  # half a copy: its pages are still written to
    engine.finish_load("a")
    assert engine.residency.forget("a")
    assert engine.num_pages_unused == 20


def test_a_failed_copy_ends_those_who_wait_for_it_only() -> None:
    engine = VirtualEngine(20, {"a": 3})
    engine.add("adapted", 4, 3, "a")
    engine.add("base", 4, 3)
    engine.step()
    engine.fail_load("a")
    assert list(engine.live) == ["base"]
    engine.add("again", 4, 3, "a")  # a new request tries again
    engine.run_until_done(10)
    assert list(engine.finished) == ["base", "again"]


def test_what_cannot_fit_the_empty_pool_is_not_accepted() -> None:
    engine = VirtualEngine(10, {"a": 4}, page_size=2)
    assert engine.scheduler.capacity.num_pages_needed(engine.request("r", 8, 4)) == 6
    assert engine.scheduler.capacity.num_pages_needed(engine.request("r", 8, 4, "a")) == 10
    engine.add("fits", 8, 4, "a")
    with pytest.raises(AssertionError):
        engine.scheduler.add(engine.request("too_big", 8, 5, "a"))
    engine.run_until_done(10)


def test_check_finds_pages_that_no_sequence_holds() -> None:
    engine = VirtualEngine(10)
    assert engine.pool.allocate(1, "kv:nobody") is not None
    with pytest.raises(PoolCorruptionError, match="hold 0 pages"):
        engine.scheduler.check()


def test_check_finds_a_page_that_two_sequences_hold() -> None:
    engine = VirtualEngine(10)
    engine.add("a", 2, 4)
    engine.add("b", 2, 4)
    first, second = (chunk.sequence for chunk in engine.schedule().chunks)
    second.pages = first.pages
    with pytest.raises(PoolCorruptionError, match="1 distinct"):
        engine.scheduler.check()
