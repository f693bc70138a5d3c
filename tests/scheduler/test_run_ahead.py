"""Steps that are scheduled while the one before is in flight: its tokens are not known yet."""

import random
from collections import Counter

import pytest

from motet.scheduler.sequence import Batch
from tests.scheduler.virtual_engine import VirtualEngine

STOPS = tuple(range(0, 97, 7))


def ahead(
    num_pages: int = 40, *, max_running: int = 8, keeps_prefixes: bool = True
) -> VirtualEngine:
    return VirtualEngine(
        num_pages, max_running=max_running, keeps_prefixes=keeps_prefixes, overlaps=True
    )


def count_computed(engine: VirtualEngine) -> Counter[str]:
    """Run until all is done; the tokens that were computed, by request."""
    num_computed: Counter[str] = Counter()
    while engine.live or engine.in_flight:
        engine.step()
        for chunk in engine.in_flight.chunks if engine.in_flight else ():
            num_computed[chunk.sequence.request_id] += chunk.num_new_tokens
    return num_computed


def test_a_decode_is_launched_before_its_token_is_known() -> None:
    engine = ahead()
    engine.add("a", 5, 4)
    assert engine.step() == []  # the prompt
    assert engine.in_flight is not None
    outputs = engine.step()  # the first decode is launched, then the prompt's token taken
    assert [len(output.token_ids) for output in outputs] == [1]
    (chunk,) = engine.in_flight.chunks
    assert chunk.awaits_token
    assert (chunk.start, chunk.end, chunk.num_new_tokens) == (5, 6, 1)
    engine.run_until_done(6)
    assert len(engine.finished["a"]) == 4


def test_nothing_is_computed_beyond_a_length_that_is_known() -> None:
    engine = ahead()
    engine.add("a", 5, 4)
    engine.add("b", 3, 1)
    assert count_computed(engine) == {"a": 5 + 3, "b": 3}
    assert engine.num_pages_unused == 40


def test_a_stop_token_costs_one_token_more_and_nothing_of_it_is_kept() -> None:
    engine = ahead()
    engine.add("a", 3, 60, stop_token_ids=STOPS)
    num_computed = count_computed(engine)["a"]
    tokens = engine.request("a", 3, 60).prompt_token_ids + engine.finished["a"]
    assert len(tokens) < 63, "the length ended it"
    assert num_computed == len(tokens)  # the last of them need not have been
    found = engine.prefixes.match((None, None), tokens, max_pages=99)
    assert len(found) == engine.prefixes.num_idle_pages == (len(tokens) - 1) // engine.page_size
    assert engine.num_pages_unused == 40


def test_one_that_is_aborted_in_flight_gives_its_pages_back_at_once() -> None:
    engine = ahead()
    engine.add("goes", 5, 9)
    engine.add("stays", 5, 9)
    for _ in range(3):
        engine.step()
    assert engine.in_flight is not None
    engine.abort("goes")
    assert engine.scheduler.num_running == 1
    assert {output.request_id for output in engine.step()} == {"stays"}
    engine.run_until_done(12)
    assert list(engine.finished) == ["stays"]


def test_pages_of_one_that_ended_may_be_given_away_while_a_step_still_writes_to_them() -> None:
    """The pool holds one request: the next one starts in the very pages of the first."""
    engine = ahead(4, max_running=1, keeps_prefixes=False)
    for index in range(6):
        engine.add(f"r{index}", 3, 5, stop_token_ids=STOPS)
    engine.run_until_done(60)
    assert len(engine.finished) == 6


def test_logits_that_are_not_finite_end_one_request_only() -> None:
    engine = ahead(20)
    engine.add("bad", 3, 6, fails_at=2)
    engine.add("good", 3, 6)
    reasons: dict[str, str] = {}
    while engine.live:
        reasons |= {o.request_id: o.finish_reason for o in engine.step() if o.finish_reason}
    engine.run_until_done(2)
    assert reasons == {"bad": "error", "good": "length"}
    assert [len(engine.finished[request]) for request in ("bad", "good")] == [2, 6]


def test_penalties_wait_for_every_token() -> None:
    engine = ahead()
    engine.add("a", 5, 6, penalty=0.5)
    engine.add("b", 5, 6)
    while engine.live or engine.in_flight:
        engine.step()
        assert engine.in_flight is None or not awaiting(engine.in_flight)
    assert len(engine.finished["a"]) == len(engine.finished["b"]) == 6


def awaiting(batch: Batch) -> list[str]:
    return [chunk.sequence.request_id for chunk in batch.chunks if chunk.awaits_token]


@pytest.mark.parametrize("seed", range(6))
def test_either_order_gives_the_same_tokens(seed: int) -> None:
    """With preemptions, shared prompts, stops, failures, and adapters that come and go."""
    rng = random.Random(seed)
    requests = [
        {
            "request_id": f"r{i}",
            "num_prompt_tokens": rng.randint(1, 12),
            "max_tokens": rng.randint(1, 16),
            "digest": rng.choice([None, "a", "b", "c"]),
            "stop_token_ids": rng.choice([(), STOPS]),
            "fails_at": rng.choice([None, None, None, 3]),
            "shared": ("text", rng.randint(0, 8)),
        }
        for i in range(20)
    ]
    arrivals = [rng.randint(0, 2) for _ in requests]
    finished = {}
    num_awaited = 0
    for overlaps in (False, True):
        engine = VirtualEngine(18, {"a": 2, "b": 4, "c": 3}, max_step_tokens=10, overlaps=overlaps)
        for request, num_steps in zip(requests, arrivals, strict=True):
            engine.add(**request)  # type: ignore[arg-type]
            for _ in range(num_steps):
                engine.step()
                num_awaited += len(awaiting(engine.in_flight)) if engine.in_flight else 0
                engine.finish_loads()
        engine.run_until_done(2000)
        assert engine.scheduler.num_preemptions > 0
        assert engine.residency.num_evictions > 0
        finished[overlaps] = engine.finished
    assert num_awaited > 0
    assert finished[True] == finished[False]
