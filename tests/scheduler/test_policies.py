"""Policies in the scheduler: what they decide, and what they cannot."""

import random

import pytest

from motet.scheduler.policies.cluster import MAX_OVERTAKING, Cluster
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policies.size_aware import OutputLengths, SizeAware
from motet.scheduler.policy import Policy
from tests.scheduler.policies.cases import CASES
from tests.scheduler.virtual_engine import VirtualEngine


def _cluster() -> Policy:
    return Cluster(Fcfs(), 1)


def test_cluster_keeps_a_batch_to_the_adapters_it_has() -> None:
    engine = VirtualEngine(60, {"a": 2, "b": 2}, max_running=2, make_policy=_cluster)
    engine.load("a", "b")
    engine.add("a0", 2, 3, "a")
    engine.add("a1", 2, 8, "a")
    engine.step()
    engine.add("b", 2, 2, "b")
    engine.add("a2", 2, 2, "a")
    engine.add("base", 2, 2)
    engine.run_until_done(30)
    assert list(engine.finished) == ["a0", "a2", "base", "a1", "b"]


def test_a_cold_adapter_is_read_and_copied_while_others_overtake() -> None:
    """It waits for its turn, and not for the disk in addition."""
    engine = VirtualEngine(
        60, {"warm": 2, "cold": 2}, max_running=3, host_budget_pages=20, make_policy=_cluster
    )
    num_warm = 0
    while "c" not in engine.finished:
        if num_warm == 4:  # some of them run
            engine.add("c", 2, 2, "cold")
        engine.add(f"w{num_warm}", 2, 4 + num_warm % 3, "warm")
        num_warm += 1
        engine.step()
        engine.finish_loads()
        if num_warm == 10:
            assert engine.host.has("cold") or engine.residency.is_placed("cold")
            assert "c" not in engine.finished
    num_before = list(engine.finished).index("c")
    assert num_before > MAX_OVERTAKING - 3
    assert engine.residency.num_loads == 2
    engine.run_until_done(400)


def test_size_aware_admits_small_ones_first() -> None:
    lengths = OutputLengths()
    engine = VirtualEngine(60, max_running=1, make_policy=lambda: SizeAware(lengths))
    engine.add("large0", 40, 8)
    engine.step()
    for name, size in [("large1", 40), ("large2", 40), ("small1", 2), ("small2", 2)]:
        engine.add(name, size, 2)
    engine.run_until_done(60)
    assert list(engine.finished) == ["large0", "small1", "large1", "small2", "large2"]


@pytest.mark.parametrize("policy", CASES)
def test_priorities_come_before_any_policy(policy: str) -> None:
    make_policy = CASES[policy].make_factory()
    engine = VirtualEngine(80, {"a": 2, "b": 2}, max_running=1, make_policy=make_policy)
    engine.load("a", "b")
    rng = random.Random(policy)
    priorities = [rng.choice([-1, 0, 3]) for _ in range(40)]
    for index, priority in enumerate(priorities):
        num_prompt_tokens = rng.choice([1, 30])
        engine.add(f"{priority}/{index}", num_prompt_tokens, 2, rng.choice("ab"), priority=priority)
    engine.run_until_done(400)
    assert [int(name.split("/")[0]) for name in engine.finished] == sorted(priorities)


@pytest.mark.parametrize("policy", CASES)
def test_policies_change_the_order_and_no_token(policy: str) -> None:
    """With preemptions: who was sent back returns to its place, whatever the policy would say."""
    finished = {}
    for name in ("fcfs", policy):
        engine = VirtualEngine(
            16,
            {"a": 2, "b": 2, "c": 3},
            max_step_tokens=10,
            overlaps=True,
            make_policy=CASES[name].make_factory(),
        )
        for index in range(24):
            digest = [None, "a", "b", "a", "c"][index % 5]
            engine.add(f"r{index}", 2 + index % 7, 4 + index % 9, digest)
        engine.run_until_done(800)
        assert engine.scheduler.num_preemptions > 0
        finished[name] = engine.finished
    assert finished["fcfs"] == finished[policy]
