"""Fair shares: who is next, and the bound on what two tenants are served, as `fair.py` states it.

The bound is checked against service that the test counts itself, prompts and outputs.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.scheduler.policies.fair import INPUT_COST, OUTPUT_COST, Fair, TokenCounters
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policy import PolicyFactory, QueuedRequest
from tests.scheduler.policies.lab import Device, Lab, Played, Work
from tests.scheduler.virtual_engine import VirtualEngine

Adapters = tuple[str, ...]


def request(
    tenant: str | None,
    arrival: int = 0,
    adapters: Adapters = (),
    num_prompt_tokens: int = 10,
    weight: float = 1.0,
    priority: int = 0,
) -> QueuedRequest:
    return QueuedRequest(
        request_id=f"{tenant}-{arrival}",
        arrival=arrival,
        tenant=tenant,
        adapters=adapters,
        num_prompt_tokens=num_prompt_tokens,
        weight=weight,
        priority=priority,
    )


def call(policy: Fair) -> QueuedRequest:
    """Whose turn it is; its turn has come."""
    called = policy.next(())
    assert called is not None
    policy.call(called)
    return called


def serve(policy: Fair, num_tokens: int = 0) -> QueuedRequest:
    """A whole request, from call to end."""
    called = call(policy)
    policy.start(called, 0.0)
    policy.count_output(called, num_tokens, 0.0)
    policy.end(called)
    return called


def served(policy: Fair, count: int, num_tokens: int = 0) -> list[str | None]:
    return [serve(policy, num_tokens).tenant for _ in range(count)]


def add_all(policy: Fair, requests: list[QueuedRequest]) -> None:
    for each in requests:
        policy.add(each)


def test_tenants_take_turns_and_within_one_the_oldest_is_first() -> None:
    policy = Fair(TokenCounters())
    add_all(policy, [request("a", i) for i in range(3)] + [request("b", 3 + i) for i in range(3)])
    assert [serve(policy).request_id for _ in range(6)] == [
        "a-0",
        "b-3",
        "a-1",
        "b-4",
        "a-2",
        "b-5",
    ]
    assert policy.next(()) is None


def test_a_generated_token_counts_twice_a_prompts() -> None:
    policy = Fair(TokenCounters())
    add_all(policy, [request("a", 0, num_prompt_tokens=1)])
    serve(policy, num_tokens=10)  # 21
    add_all(policy, [request("b", 1 + i, num_prompt_tokens=4) for i in range(9)])
    add_all(policy, [request("a", 50 + i, num_prompt_tokens=1) for i in range(9)])
    # b comes to an empty line, at 21, where a is; then both have theirs of 1 and of 4.
    assert served(policy, 6) == ["b", "a", "a", "a", "a", "b"]


def test_weights_are_shares() -> None:
    policy = Fair(TokenCounters())
    add_all(policy, [request("small", i) for i in range(40)])
    add_all(policy, [request("large", 40 + i, weight=3.0) for i in range(40)])
    tenants = served(policy, 40)
    assert tenants.count("large") == 30
    assert tenants.count("small") == 10


def test_weights_count_for_output_as_for_prompts() -> None:
    policy = Fair(TokenCounters())
    add_all(policy, [request("small", i, (), 1) for i in range(40)])
    add_all(policy, [request("large", 40 + i, (), 1, weight=3.0) for i in range(40)])
    assert served(policy, 40, num_tokens=50).count("large") == 30


def test_within_a_tenant_adapters_take_turns() -> None:
    policy = Fair(TokenCounters())
    add_all(policy, [request("t", i, ("x",)) for i in range(8)])
    add_all(policy, [request("t", 8, ("y",)), request("t", 9, ()), request("t", 10, ("x", "y"))])
    first = [serve(policy).arrival for _ in range(4)]
    assert sorted(first) == [0, 8, 9, 10]


def test_many_adapters_are_no_larger_share() -> None:
    policy = Fair(TokenCounters())
    add_all(policy, [request("many", i, (f"d{i}",)) for i in range(20)])
    add_all(policy, [request("one", 20 + i, ("d",)) for i in range(20)])
    assert served(policy, 20).count("one") == 10


def test_who_was_away_has_no_claim_from_that_time() -> None:
    policy = Fair(TokenCounters())
    add_all(policy, [request("away", 0)])
    serve(policy)
    add_all(policy, [request("busy", 1 + i) for i in range(60)])
    served(policy, 40)
    add_all(policy, [request("away", 100 + i) for i in range(20)])
    tenants = served(policy, 20)
    assert tenants.count("away") == 10
    assert tenants[:4].count("away") == 2


def test_nor_has_one_who_comes_to_an_empty_line() -> None:
    policy = Fair(TokenCounters())
    add_all(policy, [request("busy", i) for i in range(40)])
    served(policy, 40, num_tokens=5)
    add_all(policy, [request("new", 100 + i) for i in range(20)])
    add_all(policy, [request("busy", 200 + i) for i in range(20)])
    assert served(policy, 10).count("new") == 5


def test_leaving_pays_no_debt() -> None:
    """One that has just been served much comes back behind those that wait."""
    policy = Fair(TokenCounters())
    add_all(policy, [request("greedy", 0, num_prompt_tokens=100)])
    add_all(policy, [request("other", 1 + i) for i in range(30)])
    serve(policy)
    add_all(policy, [request("greedy", 99)])
    assert served(policy, 10) == ["other"] * 10


def test_a_request_that_never_ran_gives_its_charge_back() -> None:
    policy = Fair(TokenCounters())
    add_all(
        policy, [request("a", 0, ("x",), 1000), request("a", 1, ("x",)), request("a", 2, ("y",))]
    )
    add_all(policy, [request("b", 3 + i) for i in range(10)])
    given_up = call(policy)
    assert given_up.arrival == 0
    assert served(policy, 3) == ["b"] * 3
    policy.end(given_up)
    assert [serve(policy).arrival for _ in range(2)] == [1, 2]


def test_one_that_ran_gives_nothing_back() -> None:
    policy = Fair(TokenCounters())
    add_all(policy, [request("a", 0, (), 1000), request("a", 1)])
    add_all(policy, [request("b", 3 + i) for i in range(10)])
    serve(policy)
    assert served(policy, 5) == ["b"] * 5


def test_a_removed_request_costs_nothing() -> None:
    policy = Fair(TokenCounters())
    mine = [request("a", i, (), 1000) for i in range(5)]
    add_all(policy, [*mine, request("b", 9)])
    for each in mine[:4]:
        policy.remove(each)
    assert served(policy, 2) == ["a", "b"]
    assert policy.next(()) is None
    assert policy.upcoming(5) == []


def test_what_was_served_at_one_priority_counts_at_another() -> None:
    counters = TokenCounters()
    urgent, plain = Fair(counters), Fair(counters)
    add_all(plain, [request("b", i, priority=1) for i in range(20)])
    add_all(urgent, [request("a", 50 + i) for i in range(10)])
    served(urgent, 10)
    add_all(plain, [request("a", 100 + i, priority=1) for i in range(20)])
    assert served(plain, 10) == ["b"] * 10


def test_those_who_are_gone_are_forgotten_and_gain_nothing_by_it() -> None:
    counters = TokenCounters()
    policy = Fair(counters)
    for index in range(5000):
        policy.add(request(f"t{index}", index, (f"d{index}",)))
        serve(policy, num_tokens=3)
    assert len(counters.tenants) < 200
    add_all(policy, [request("t4999", 6000), request("t0", 6001), request("new", 6002)])
    assert sorted(map(str, served(policy, 3))) == ["new", "t0", "t4999"]


def test_the_first_of_those_to_come_is_the_next() -> None:
    rng = random.Random(11)
    policy = Fair(TokenCounters())
    for arrival in range(400):
        adapters = (f"d{rng.randrange(4)}",)
        policy.add(request(f"t{rng.randrange(30)}", arrival, adapters, rng.randint(1, 50)))
    for num_left in range(400, 0, -1):
        upcoming = policy.upcoming(10)
        assert upcoming[0] is policy.next(())
        assert len({*upcoming}) == len(upcoming) == min(10, num_left)
        serve(policy, rng.randrange(10))
    assert policy.upcoming(10) == []


@dataclass
class Backlog:
    """Plays requests at random, with two tenants that always have some waiting.

    Attributes:
        gaps: what the one was served above the other, after each thing that happened.
        most_in_play: of one moment, in tokens.
    """

    rng: random.Random
    weights: dict[str, float]
    by_adapter: bool
    policy: Fair = field(default_factory=lambda: Fair(TokenCounters()))
    num_arrived: int = 0
    num_waiting: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    service: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    running: list[tuple[QueuedRequest, list[int]]] = field(default_factory=list)
    called: list[QueuedRequest] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    most_in_play: int = 0

    def name(self, request: QueuedRequest) -> str:
        return request.adapters[0] if self.by_adapter else str(request.tenant)

    def arrive(self, name: str) -> None:
        self.num_arrived += 1
        scale = 60 if name == "f" else 12
        new = QueuedRequest(
            request_id=str(self.num_arrived),
            arrival=self.num_arrived,
            tenant="t" if self.by_adapter else name,
            adapters=(name,) if self.by_adapter else (f"d{self.rng.randrange(3)}",),
            num_prompt_tokens=self.rng.randint(1, scale),
            max_output_tokens=self.rng.randint(1, scale),
            weight=self.weights[name],
        )
        self.policy.add(new)
        self.num_waiting[name] += 1

    def fill(self) -> None:
        for name in ("f", "g"):
            while self.num_waiting[name] < 3:
                self.arrive(name)

    def act(self) -> None:
        others = [name for name in self.weights if name not in "fg"]
        kind = self.rng.randrange(8)
        if kind == 0 and others:
            self.arrive(self.rng.choice(others))
        elif kind <= 2 and len(self.called) + len(self.running) < 6:
            called = self.policy.next(())
            assert called is not None
            self.policy.call(called)
            self.num_waiting[self.name(called)] -= 1
            self.charge(called, INPUT_COST * called.num_prompt_tokens)
            self.called.append(called)
        elif kind == 3 and self.called:
            started = self.called.pop(self.rng.randrange(len(self.called)))
            self.policy.start(started, 0.0)
            self.running.append((started, [0]))
        elif kind == 4 and self.called and self.rng.random() < 0.3:
            given_up = self.called.pop(self.rng.randrange(len(self.called)))
            self.policy.end(given_up)
            self.charge(given_up, -INPUT_COST * given_up.num_prompt_tokens)
        else:
            self.step()
        in_play = [*self.called, *(each for each, _ in self.running)]
        num_tokens = sum(each.num_prompt_tokens + each.max_output_tokens for each in in_play)
        self.most_in_play = max(self.most_in_play, num_tokens)
        self.gaps.append(self.service["f"] - self.service["g"])
        self.fill()

    def charge(self, request: QueuedRequest, cost: float) -> None:
        self.service[self.name(request)] += cost / request.weight

    def step(self) -> None:
        for request, progress in list(self.running):
            progress[0] += 1
            self.policy.count_output(request, 1, 0.0)
            self.charge(request, OUTPUT_COST)
            if progress[0] == request.max_output_tokens or self.rng.random() < 0.02:
                self.policy.end(request)
                self.running.remove((request, progress))


@pytest.mark.parametrize("by_adapter", [False, True], ids=["tenants", "adapters"])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.tuples(st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from([1.0, 2.0])),
    num_others=st.integers(0, 3),
)
def test_the_service_of_two_that_wait_stays_within_the_bound(
    by_adapter: bool, seed: int, weights: tuple[float, float], num_others: int
) -> None:
    """In any part of the time: the greatest gap less the least one is at most 2 U."""
    names = ["f", "g", *(f"o{index}" for index in range(num_others))]
    shares = dict.fromkeys(names, 1.0) | ({} if by_adapter else {"f": weights[0], "g": weights[1]})
    backlog = Backlog(random.Random(seed), shares, by_adapter)
    backlog.fill()
    for _ in range(400):
        backlog.act()
    largest_gap = OUTPUT_COST * backlog.most_in_play / min(shares.values())
    assert max(backlog.gaps) - min(backlog.gaps) <= 2 * largest_gap
    assert max(map(abs, backlog.gaps)) <= largest_gap


def test_first_come_first_served_exceeds_the_bound() -> None:
    """So the property above can fail."""
    backlog = Backlog(random.Random(5), {"f": 1.0, "g": 1.0}, by_adapter=False)
    backlog.policy = Fcfs()  # type: ignore[assignment]
    backlog.fill()
    for _ in range(4000):
        backlog.act()
    assert max(backlog.gaps) - min(backlog.gaps) > 4 * OUTPUT_COST * backlog.most_in_play


def waits_of_the_polite(make_policy: PolicyFactory, *, is_flooded: bool) -> list[float]:
    rng = random.Random(3)
    works = []
    for index in range(60):
        polite = request("polite", 1000 * index, num_prompt_tokens=rng.randint(10, 60))
        works.append((index * 1.0, polite))
    for index in range(6000 if is_flooded else 0):
        flood = request("flood", 1000 * (index // 100) + 1 + index % 100, num_prompt_tokens=30)
        works.append((index / 100, flood))
    lab = Lab(make_policy, Device(max_running=8))
    played = lab.play([Work(_at(each, now_s), rng.randint(4, 30)) for now_s, each in works])
    return [_wait_s(each) for each in played if each.work.request.tenant == "polite"]


def _at(request: QueuedRequest, now_s: float) -> QueuedRequest:
    return QueuedRequest(
        request_id=request.request_id,
        arrival=request.arrival,
        queued_s=now_s,
        tenant=request.tenant,
        num_prompt_tokens=request.num_prompt_tokens,
    )


def _wait_s(played: Played) -> float:
    assert played.started_s is not None
    return played.started_s - played.work.request.queued_s


def test_a_polite_tenant_hardly_waits_for_a_flooding_one() -> None:
    """6,060 requests in all: with places for 8, one ends every 70 ms or so."""
    counters = TokenCounters()
    fair = waits_of_the_polite(lambda: Fair(counters), is_flooded=True)
    alone = waits_of_the_polite(Fcfs, is_flooded=False)
    assert max(alone) == 0.0
    assert max(fair) < 0.5
    assert max(waits_of_the_polite(Fcfs, is_flooded=True)) > 100


def steps_of_the_polite(make_policy: PolicyFactory, *, is_flooded: bool) -> list[int]:
    """Steps that each of its requests takes from its arrival to its end."""
    engine = VirtualEngine(60, {"a": 1, "b": 1}, make_policy=make_policy)
    ends = []
    for index in range(6):
        if is_flooded:
            for number in range(100 if index == 0 else 15):
                engine.add(f"flood-{index}-{number}", 3, 4, "a", tenant="flood")
        engine.add(f"polite-{index}", 3, 4, "b", tenant="polite")
        start = engine.num_steps
        while f"polite-{index}" not in engine.finished:
            engine.step()
            engine.finish_loads()
            assert engine.num_steps < start + 400
        ends.append(engine.num_steps - start)
    return ends


def test_in_the_scheduler_too_a_polite_tenant_is_served_as_if_alone() -> None:
    counters = TokenCounters()
    alone = steps_of_the_polite(Fcfs, is_flooded=False)
    flooded = steps_of_the_polite(lambda: Fair(counters), is_flooded=True)
    # A sequence in each of the eight places takes four steps: one becomes free within these.
    assert max(flooded) <= max(alone) + 4
    assert max(steps_of_the_polite(Fcfs, is_flooded=True)) > 50
