"""Under `fair`, a tenant that has less than its share need not wait until others end."""

import pytest

from motet.scheduler.policies.fair import Fair, TokenCounters
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policy import PolicyFactory
from tests.scheduler.virtual_engine import VirtualEngine


def fair() -> PolicyFactory:
    counters = TokenCounters()
    return lambda: Fair(counters)


def flooded(engine: VirtualEngine, count: int, max_tokens: int, digest: str | None = None) -> None:
    for number in range(count):
        engine.add(f"flood-{number}", 3, max_tokens, digest, tenant="flood")
    engine.step()
    engine.finish_loads()
    engine.step()


def is_running(engine: VirtualEngine, request_id: str) -> bool:
    return request_id in engine.live and engine.live[request_id].is_running


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_place_is_made_for_one_that_is_owed_it(overlaps: bool) -> None:
    engine = VirtualEngine(60, max_running=3, make_policy=fair(), overlaps=overlaps)
    flooded(engine, 6, 12)
    engine.add("polite", 3, 4, tenant="polite")
    for _ in range(3 if overlaps else 2):  # the flood's counter has to pass the newcomer's
        engine.step()
    assert is_running(engine, "polite")
    assert engine.scheduler.num_preemptions == 1
    engine.run_until_done(200)


def test_by_arrival_it_waits_for_an_end() -> None:
    engine = VirtualEngine(60, max_running=3, make_policy=Fcfs)
    flooded(engine, 6, 12)
    engine.add("polite", 3, 4, tenant="polite")
    engine.step()
    assert not is_running(engine, "polite")
    assert engine.scheduler.num_preemptions == 0
    engine.run_until_done(200)


def test_pages_are_made_for_it() -> None:
    engine = VirtualEngine(20, make_policy=fair(), keeps_prefixes=False)
    flooded(engine, 5, 5)  # four pages each at their longest, and all twenty are in use
    for _ in range(3):
        engine.step()
    engine.add("polite", 3, 4, tenant="polite")
    for _ in range(2):
        engine.step()
    assert is_running(engine, "polite")
    engine.run_until_done(200)


def test_room_for_its_adapter_is_made_first() -> None:
    engine = VirtualEngine(16, {"a": 2, "b": 9}, make_policy=fair(), keeps_prefixes=False)
    flooded(engine, 4, 5, "a")
    engine.add("polite", 3, 4, "b", tenant="polite")
    for _ in range(6):
        engine.step()
        engine.finish_loads()
        if is_running(engine, "polite"):
            break
    assert is_running(engine, "polite")
    assert engine.scheduler.num_preemptions > 0
    engine.run_until_done(300)


def test_it_comes_before_those_that_were_sent_back() -> None:
    """The first in line is a preempted request of the flood, for which there is no room."""
    engine = VirtualEngine(60, max_running=2, make_policy=fair())
    flooded(engine, 4, 30)
    for number in range(4):
        engine.add(f"polite-{number}", 3, 2, tenant="polite")
        start = engine.num_steps
        while f"polite-{number}" in engine.live:
            engine.step()
        assert engine.num_steps - start <= 3
    engine.run_until_done(300)


def test_two_floods_do_not_send_each_other_back_in_turns() -> None:
    engine = VirtualEngine(80, max_running=4, make_policy=fair())
    for number in range(12):
        engine.add(f"a-{number}", 3, 10, tenant="a")
    engine.step()
    for number in range(12):
        engine.add(f"b-{number}", 3, 10, tenant="b")
    engine.run_until_done(300)
    assert engine.scheduler.num_preemptions <= 2


def test_few_long_requests_are_not_sent_back_for_many_short_ones() -> None:
    """They hold most of what is in play, and are served no more than the others."""
    engine = VirtualEngine(200, max_running=6, max_step_tokens=64, make_policy=fair())
    for number in range(3):
        engine.add(f"long-{number}", 30, 40, tenant="long")
    for number in range(60):
        engine.add(f"short-{number}", 2, 4, tenant="short")
    ends = []
    while engine.live:
        ends += [output.request_id for output in engine.step() if output.finish_reason]
    assert len(ends) == 63
    longs = [place for place, request_id in enumerate(ends) if request_id.startswith("long")]
    assert max(longs) < 50  # not when the flood is over


def test_priorities_come_before_shares() -> None:
    engine = VirtualEngine(60, max_running=2, make_policy=fair())
    for number in range(4):
        engine.add(f"urgent-{number}", 3, 6, tenant="flood", priority=-1)
    engine.step()
    engine.add("polite", 3, 2, tenant="polite")
    for _ in range(4):
        engine.step()
    assert not is_running(engine, "polite")
    engine.run_until_done(100)


def test_nobody_is_sent_back_for_one_of_a_higher_number() -> None:
    engine = VirtualEngine(1, max_running=1, max_step_tokens=1, make_policy=fair())
    engine.add("urgent", 2, 0, tenant="a", priority=-1)
    engine.step()
    engine.add("other", 1, 0, tenant="b")
    engine.run_until_done(10)
    assert engine.scheduler.num_preemptions == 0
