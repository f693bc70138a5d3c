"""First tokens in time: who is refused, when, and who is served, in virtual time."""

import random
from collections.abc import Sequence

import pytest

from motet.scheduler.policies.fair import Fair, TokenCounters
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policies.service_rate import ServiceRate
from motet.scheduler.policies.slo import Slo
from motet.scheduler.policy import PolicyFactory, QueuedRequest
from tests.scheduler.policies.lab import Device, Lab, Played, Work
from tests.scheduler.virtual_engine import VirtualEngine

SLO_S = 6.0
# Sixteen places, and outputs of 8 to 512 tokens at 32 a second: two requests a second.
DEVICE = Device(max_running=16)


def slo() -> PolicyFactory:
    rate = ServiceRate(SLO_S)
    return lambda: Slo(Fcfs(), rate, SLO_S, newest_first=True)


def fair_slo() -> PolicyFactory:
    rate, counters = ServiceRate(SLO_S), TokenCounters()
    return lambda: Slo(Fair(counters), rate, SLO_S, newest_first=False)


def request(
    arrival: int, queued_s: float = 0.0, priority: int = 0, tenant: str | None = None
) -> QueuedRequest:
    return QueuedRequest(
        request_id=str(arrival),
        arrival=arrival,
        queued_s=queued_s,
        priority=priority,
        tenant=tenant,
        num_prompt_tokens=260,
        max_output_tokens=512,
    )


def poisson(
    rng: random.Random, rate: float, start_s: float, end_s: float, **changes: object
) -> list[Work]:
    works, now_s = [], start_s
    while (now_s := now_s + rng.expovariate(rate)) < end_s:
        arrival = int(now_s * 1e6)
        works.append(Work(request(arrival, now_s, **changes), rng.randint(8, 512)))  # type: ignore[arg-type]
    return works


def in_time(played: Sequence[Played]) -> float:
    """The share of all that had a first token within the SLO."""
    return sum(each.first_token_s is not None and each.ttft_s < SLO_S for each in played) / len(
        played
    )


@pytest.mark.parametrize("rate", [3.0, 6.0])
def test_under_overload_many_are_in_time_where_first_come_first_served_has_hardly_any(
    rate: float,
) -> None:
    """1,800 and 3,600 requests, of which two thirds and one third could be served."""
    works = poisson(random.Random(1), rate, 0.0, 600.0)
    played = Lab(slo(), DEVICE).play(works)
    assert in_time(played) > 0.9 * 2.0 / rate
    assert in_time(played) > 5 * in_time(Lab(lambda: Fcfs(), DEVICE).play(works))


def test_nobody_is_refused_after_the_deadline_and_hardly_anyone_is_served_after_it() -> None:
    played = Lab(slo(), DEVICE).play(poisson(random.Random(2), 4.0, 0.0, 600.0))
    refused = [each for each in played if each.refused_s is not None]
    waits = [(each.refused_s or 0.0) - each.work.request.queued_s for each in refused]
    assert max(waits) <= SLO_S
    assert sorted(waits)[len(waits) // 2] < SLO_S / 2, "most know early"
    served = [each for each in played if each.first_token_s is not None]
    assert len(refused) + len(served) == len(played)
    assert sum(each.ttft_s > SLO_S for each in served) <= 0.01 * len(served)
    assert sorted(each.ttft_s for each in served)[len(served) // 2] < 1.0, "the newest go first"


def test_nobody_is_refused_while_there_is_no_need() -> None:
    played = Lab(slo(), DEVICE).play(poisson(random.Random(3), 1.0, 0.0, 2000.0))
    assert all(each.refused_s is None for each in played)


def test_a_burst_on_an_idle_server_is_no_reason_to_refuse() -> None:
    """Long overloaded, then idle: what is known of that time no longer holds."""
    rng = random.Random(4)
    works = poisson(rng, 6.0, 0.0, 100.0)
    burst = [Work(request(10**9 + index, 200.0), 8) for index in range(60)]
    played = Lab(slo(), DEVICE).play([*works, *burst])
    assert all(each.refused_s is None for each in played[len(works) :])


def test_who_could_not_be_in_time_in_a_burst_is_told_at_once() -> None:
    """Busy, but not overloaded, when a hundred come: about a dozen can be served."""
    rng = random.Random(5)
    works = poisson(rng, 1.9, 0.0, 100.0)
    burst = [Work(request(10**9 + index, 100.0), rng.randint(8, 512)) for index in range(100)]
    played = Lab(slo(), DEVICE).play([*works, *burst])[len(works) :]
    waits = [each.refused_s - 100.0 for each in played if each.refused_s is not None]
    assert len(waits) > 70
    assert sum(wait_s < 1.0 for wait_s in waits) > 0.8 * len(waits)


def busy(policy: Slo, num: int = 100, every_s: float = 0.5, first_token_s: float = 0.1) -> float:
    """It learns that one starts now and then; nobody is left. When that ends."""
    policy.add(request(0, 0.0))
    for index in range(num):
        now_s = index * every_s
        policy.add(request(index + 1, now_s))
        policy.refusals(now_s)
        called = policy.next(())
        assert called is not None
        policy.call(called)
        policy.start(called, now_s)
        policy.count_output(called, 1, now_s + first_token_s)
        policy.end(called)
    called = policy.next(())
    assert called is not None
    policy.remove(called)
    return num * every_s


def make(*, newest_first: bool = False, rate: ServiceRate | None = None) -> Slo:
    return Slo(Fcfs(), rate or ServiceRate(SLO_S), SLO_S, newest_first=newest_first)


def refused(policy: Slo, now_s: float) -> list[int]:
    """Who is refused, by arrival; they are removed."""
    refusals = policy.refusals(now_s)
    for refusal in refusals:
        policy.remove(refusal.request)
    return [refusal.request.arrival for refusal in refusals]


def test_at_the_beginning_everyone_may_wait_until_the_deadline() -> None:
    policy = make()
    for index in range(100):
        policy.add(request(index, index * 0.01))
    assert refused(policy, SLO_S - 0.01) == []
    assert refused(policy, SLO_S + 0.501) == list(range(51))
    assert policy.next_refusal_s() == pytest.approx(SLO_S + 0.51)


def test_the_last_in_order_are_refused() -> None:
    policy = make()
    now_s = busy(policy)
    for index in range(30):
        policy.add(request(1000 + index, now_s))
    gone = refused(policy, now_s)
    assert gone == list(range(1000 + 30 - len(gone), 1030))
    assert 16 <= len(gone) <= 20  # 6 s at 2 a second, less the time to the first token
    assert len(refused(policy, now_s + 0.2)) <= 1


def test_the_time_to_the_first_token_is_no_time_to_wait() -> None:
    policy = make()
    now_s = busy(policy, first_token_s=2.0)
    for index in range(30):
        policy.add(request(1000 + index, now_s))
    assert 20 <= len(refused(policy, now_s)) <= 24  # 4 s at 2 a second are left


def test_when_overloaded_the_newest_are_next_and_the_oldest_are_refused() -> None:
    policy = make(newest_first=True)
    now_s = busy(policy)
    for index in range(30):
        policy.add(request(1000 + index, now_s))
    gone = refused(policy, now_s)
    assert sorted(gone) == list(range(1000, 1000 + len(gone)))
    assert 16 <= len(gone) <= 20
    upcoming = policy.upcoming(3)
    assert [each.arrival for each in upcoming] == [1029, 1028, 1027]
    assert policy.next(()) is upcoming[0]


def test_who_is_called_or_has_a_lower_number_is_before() -> None:
    rate = ServiceRate(SLO_S)
    urgent, plain = make(rate=rate), make(rate=rate)
    now_s = busy(plain)
    for index in range(6):
        urgent.add(request(1000 + index, now_s, priority=-1))
    for index in range(30):
        plain.add(request(2000 + index, now_s))
    called = plain.next(())
    assert called is not None
    plain.call(called)
    assert refused(urgent, now_s) == []
    gone = refused(plain, now_s)
    assert 22 <= len(gone) <= 26  # six more than without the urgent ones


def test_the_first_in_order_is_not_refused_by_what_is_expected() -> None:
    """Also after a long stall, so that there is something to learn from."""
    policy = make()
    now_s = busy(policy)
    policy.add(request(1000, now_s))
    refused(policy, now_s + 5.5)
    policy.add(request(1001, now_s + 5.6))
    assert refused(policy, now_s + 40.0) == [1000, 1001]
    policy.add(request(1002, now_s + 40.0))
    assert refused(policy, now_s + 40.1) == []


def test_it_recovers_from_a_stall() -> None:
    """Nothing starts for half a minute; after that all are served soon again."""
    rng = random.Random(6)
    works = poisson(rng, 1.0, 0.0, 200.0)
    blockers = [Work(request(10**9 + index, 50.0), 1200) for index in range(16)]
    played = Lab(slo(), DEVICE).play([*works, *blockers])
    late = [each for each in played[: len(works)] if each.work.request.queued_s > 110.0]
    assert in_time(late) == 1.0


def test_a_server_that_cannot_keep_its_slo_serves_nevertheless() -> None:
    """Ten seconds to a first token: those only are refused who waited for long."""
    device = Device(max_running=2, prompt_token_s=10.0 / 260, output_token_s=0.0)
    works = [Work(request(index, index * 20.0), 1) for index in range(20)]
    assert all(each.refused_s is None for each in Lab(slo(), device).play(works))


def test_a_called_one_is_refused_at_its_deadline_too() -> None:
    policy = make()
    policy.add(request(0, 1.0))
    policy.add(request(1, 2.0))
    called = policy.next(())
    assert called is not None
    policy.call(called)
    assert policy.next_refusal_s() == 1.0 + SLO_S
    assert policy.refusals(6.9) == []
    (refusal,) = policy.refusals(7.0)
    assert refusal.request is called
    policy.end(called)
    assert policy.next_refusal_s() == 2.0 + SLO_S


def test_one_that_runs_is_never_refused() -> None:
    policy = make()
    policy.add(request(0, 0.0))
    called = policy.next(())
    assert called is not None
    policy.call(called)
    policy.start(called, 1.0)
    assert policy.next_refusal_s() is None
    assert policy.refusals(100.0) == []


def test_who_is_refused_is_told_when_there_may_be_room() -> None:
    policy = make()
    now_s = busy(policy)
    for index in range(400):
        policy.add(request(1000 + index, now_s))
    refusals = policy.refusals(now_s)
    waits = [refusal.retry_after_s for refusal in refusals]
    assert waits == sorted(waits)
    assert 4.0 < waits[0] < 8.0  # those who are kept have been served then
    assert waits[-1] == 60.0
    assert "6 s" in refusals[0].reason


def test_nobody_is_told_to_come_back_at_once() -> None:
    policy = make()
    policy.add(request(0, 0.0))
    (refusal,) = policy.refusals(60.0)
    assert refusal.retry_after_s >= 1.0


def test_with_fair_shares_those_who_flood_are_refused() -> None:
    rng = random.Random(7)
    flood = poisson(rng, 20.0, 0.0, 120.0, tenant="flood")
    polite = poisson(rng, 0.5, 0.0, 120.0, tenant="polite")
    played = Lab(fair_slo(), DEVICE).play([*flood, *polite])
    assert in_time(played[len(flood) :]) > 0.95
    assert in_time(played[: len(flood)]) < 0.15


def test_the_scheduler_forgets_who_is_refused_while_an_adapter_is_on_its_way() -> None:
    now_s = 0.0
    rate = ServiceRate(SLO_S)
    engine = VirtualEngine(
        20,
        {"a": 2},
        make_policy=lambda: Slo(Fcfs(), rate, SLO_S, newest_first=True),
        clock=lambda: now_s,
    )
    engine.add("cold", 2, 2, "a")
    engine.add("base", 2, 2)
    batch = engine.schedule()
    assert engine.scheduler.next_refusal_s == SLO_S
    now_s = 1.0
    engine.commit(batch)
    engine.step()
    assert "base" in engine.finished
    # A first token took a second, so the other cannot be in time from 5 s on.
    assert engine.scheduler.next_refusal_s == SLO_S - 1.0
    now_s = 5.0
    engine.step()
    assert engine.live == {}
    assert engine.scheduler.num_refusals == 1
    assert engine.scheduler.next_refusal_s is None
    assert not engine.scheduler.uses_adapter("a")
    engine.finish_loads()
    engine.run_until_done(5)
