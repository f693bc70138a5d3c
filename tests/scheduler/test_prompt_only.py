"""Requests that generate nothing, and what is told of prompts.

That an output has all log probabilities of its prompt, once, is checked of every output by
`virtual_engine.py`.
"""

import pytest

from motet.core.messages import TokenOutput
from motet.memory.page_pool import KV
from motet.scheduler.sequence import BatchLogprobs
from tests.scheduler.virtual_engine import VirtualEngine


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("num_prompt_tokens", [1, 2, 15, 16, 17, 40])
def test_only_the_prompt_is_computed(overlaps: bool, num_prompt_tokens: int) -> None:
    engine = VirtualEngine(40, max_step_tokens=16, overlaps=overlaps)
    engine.add("a", num_prompt_tokens, 0, reports_prompt=True)
    outputs: list[TokenOutput] = []
    num_computed = 0
    while engine.live:
        outputs += engine.step()
        num_computed += engine.in_flight.num_tokens if engine.in_flight else 0
    assert [(output.token_ids, output.finish_reason) for output in outputs] == [([], "length")]
    assert num_computed == (num_prompt_tokens if overlaps else 0)
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting) == (0, 0)
    assert engine.num_pages_unused == 40


def test_it_ends_beside_others_whose_tokens_it_does_not_change() -> None:
    engine = VirtualEngine(40)
    engine.add("a", 5, 4)
    engine.add("only", 7, 0)
    engine.add("b", 3, 4)
    batch = engine.schedule()
    assert [chunk.samples for chunk in batch.chunks] == [True, False, True]
    engine.commit(batch)
    assert list(engine.finished) == ["only"]
    engine.run_until_done(10)


def test_what_it_computed_is_kept_for_others() -> None:
    engine = VirtualEngine(40)
    engine.add("only", 8, 0, shared=("text", 8))
    engine.run_until_done(3)
    engine.add("next", 9, 1, shared=("text", 8))
    engine.run_until_done(3)
    assert engine.num_cached_tokens == {"only": 0, "next": 8}


def test_it_reads_what_others_have_computed() -> None:
    engine = VirtualEngine(40)
    engine.add("first", 9, 1, shared=("text", 9))
    engine.run_until_done(3)
    engine.add("only", 9, 0, shared=("text", 9))
    engine.run_until_done(3)
    assert engine.num_cached_tokens["only"] == 8


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_a_prompt_that_is_told_of_is_computed_anew_and_kept(max_tokens: int) -> None:
    engine = VirtualEngine(40)
    for request_id in ("first", "again"):
        engine.add(request_id, 9, max_tokens, shared=("text", 9), reports_prompt=True)
        engine.run_until_done(8)
        assert engine.num_cached_tokens[request_id] == 0
    engine.add("plain", 9, 1, shared=("text", 9))
    engine.run_until_done(3)
    assert engine.num_cached_tokens["plain"] == 8


@pytest.mark.parametrize("keeps_prefixes", [False, True])
def test_one_that_is_preempted_in_its_prompt_tells_all_of_it_once(keeps_prefixes: bool) -> None:
    """What it told of the beginning is kept, and the prefix cache is read that far."""
    engine = VirtualEngine(7, max_step_tokens=4, keeps_prefixes=keeps_prefixes)
    engine.add("old", 4, 9)
    engine.step()
    engine.add("told", 8, 2, reports_prompt=True)
    engine.run_until_preempted()
    told = engine.live["told"].sequence
    assert told is not None
    assert told.num_preemptions == 1
    assert told.prompt_logprobs is not None
    assert len(told.prompt_logprobs) == 6
    engine.run_until_done(40)
    assert len(engine.finished["told"]) == 2


def test_what_was_told_before_a_preemption_is_not_computed_for_it_again() -> None:
    engine = VirtualEngine(20, max_step_tokens=4)
    engine.add("told", 12, 2, reports_prompt=True)
    engine.step()
    engine.step()
    seq = engine.live["told"].sequence
    assert seq is not None
    assert seq.prompt_logprobs is not None
    assert len(seq.prompt_logprobs) == 8
    engine.scheduler._preempt(seq)
    (chunk,) = engine.schedule().chunks
    assert (chunk.start, chunk.end) == (8, 12)
    assert list(chunk.reported_positions) == [8, 9, 10]


def test_logits_of_a_prompt_that_are_not_finite_end_its_request_and_are_not_kept() -> None:
    engine = VirtualEngine(20)
    engine.add("bad", 6, 0, reports_prompt=True)
    engine.add("good", 6, 2)
    batch = engine.schedule()
    bad, good = (chunk.sequence for chunk in batch.chunks)
    outputs = engine.scheduler.commit(batch, [5], BatchLogprobs(not_finite={bad}))
    assert [(output.request_id, output.finish_reason) for output in outputs] == [
        ("bad", "error"),
        ("good", None),
    ]
    assert engine.pool.num_owned(KV) + len(good.kept) == len(good.pages)
    assert engine.prefixes.num_idle_pages == 0
