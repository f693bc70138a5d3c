"""The worth of keeping something: each claim of the formula, one test or more for each."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from motet.memory.eviction import (
    HALF_LIFE_REQUESTS,
    EvictionPolicy,
    Kind,
    LruPolicy,
    PageCosts,
    SavingPolicy,
)
from motet.memory.page_pool import KV
from tests.memory.small_memory import cache, register, request_adapter, small_memory

SAME_COSTS = {"prefix_s": 1e-3, "adapter_s": 1e-3}
Gaps = Sequence[int]  # requests from each use of something to the next
gaps = st.lists(st.integers(0, 300), max_size=12)


def saving(half_life: float = 100, **costs: float) -> SavingPolicy:
    return SavingPolicy(PageCosts(**(costs or SAME_COSTS)), half_life)


def ticks(policy: EvictionPolicy, num_requests: int) -> None:
    for _ in range(num_requests):
        policy.tick()


def weight_after(policy: EvictionPolicy, kind: Kind, uses: Gaps) -> float:
    """The weight of something that comes now and is asked for again after each gap."""
    weight = policy.first(kind)
    for index, gap in enumerate(uses):
        ticks(policy, gap)
        weight = policy.again(kind, weight, was_used_again=index > 0)
    return weight


def share(num_used_again: int, num_came: int) -> float:
    """Laplace's rule of succession."""
    return (num_used_again + 1) / (num_came + 2)


def rate(now: int, use_times: Sequence[int], p: float, half_life: float) -> float:
    """The formula of the module, term by term."""
    shares = [p, *(1.0 for _ in use_times[1:])]
    terms = zip(shares, use_times, strict=True)
    return sum(s * 2.0 ** (-(now - t) / half_life) for s, t in terms)


# What is used often stays.


def adapter_hits(policy: EvictionPolicy, period: int, num_requests: int) -> list[bool]:
    """Hits of an adapter that every `period`th request names; the others name a new one each."""
    memory = small_memory(2, {"hot": 1}, policy=policy)
    hits = []
    for number in range(num_requests):
        if number % period == 0:
            hits.append(request_adapter(memory, "hot"))
        else:
            register(memory, f"cold{number}")
            request_adapter(memory, f"cold{number}")
    return hits


def prefix_hits(policy: EvictionPolicy, period: int, num_requests: int) -> list[bool]:
    """The same with prefixes of one page."""
    memory = small_memory(2, policy=policy)
    prefixes = memory.prefixes
    hits = []
    for number in range(num_requests):
        policy.tick()
        token = 0 if number % period == 0 else number
        found = prefixes.match((None, None), [token], 1)
        if found:
            prefixes.acquire(found)
            prefixes.touch(found)
            prefixes.release(found)
        else:
            assert memory.reclaimer.make_room(1, KV, (), [])
            cache(memory, (None, None), [token])
        if token == 0:
            hits.append(bool(found))
    return hits


@pytest.mark.parametrize("period", [3, 10, 50])
@pytest.mark.parametrize("hits", [adapter_hits, prefix_hits])
def test_what_is_used_often_stays_while_an_endless_stream_is_used_once(
    hits: Callable[..., list[bool]], period: int
) -> None:
    found = hits(SavingPolicy(PageCosts()), period, 2000)
    assert all(found[3:])


@pytest.mark.parametrize("period", [3, 10, 50])
@pytest.mark.parametrize("hits", [adapter_hits, prefix_hits])
def test_least_recently_used_loses_it_each_time(
    hits: Callable[..., list[bool]], period: int
) -> None:
    assert not any(hits(LruPolicy(), period, 2000))


# Recency and frequency.


@pytest.mark.parametrize("kind", Kind)
@given(uses=st.lists(st.integers(0, 50), min_size=1, max_size=6), later=st.integers(1, 500))
@settings(max_examples=50, deadline=None)
def test_of_two_used_equally_often_the_one_used_longer_ago_goes_first(
    kind: Kind, uses: list[int], later: int
) -> None:
    older = saving()
    newer = saving()
    ticks(newer, later)
    assert older.value(kind, weight_after(older, kind, uses)) < newer.value(
        kind, weight_after(newer, kind, uses)
    )


def test_of_two_last_used_together_the_one_used_more_often_stays() -> None:
    often, seldom = saving(), saving()
    assert weight_after(seldom, Kind.ADAPTER, [30]) < weight_after(often, Kind.ADAPTER, [10] * 3)


def test_one_use_more_is_worth_more() -> None:
    policy = saving()
    weight = policy.first(Kind.ADAPTER)
    for index in range(20):
        used = policy.again(Kind.ADAPTER, weight, was_used_again=index > 0)
        assert used > weight
        weight = used


def test_once_popular_loses_to_newly_popular_after_some_half_lives_but_not_at_once() -> None:
    def is_old_worth_less(num_half_lives: int) -> bool:
        policy = saving(half_life=100)
        old = weight_after(policy, Kind.ADAPTER, [1] * 200)
        ticks(policy, 100 * num_half_lives)
        new = weight_after(policy, Kind.ADAPTER, [1] * 5)
        return policy.value(Kind.ADAPTER, old) < policy.value(Kind.ADAPTER, new)

    assert not is_old_worth_less(num_half_lives=1)
    assert is_old_worth_less(num_half_lives=8)


def test_a_use_that_lies_a_half_life_back_counts_half() -> None:
    policy = SavingPolicy(PageCosts())
    uses = [0, HALF_LIFE_REQUESTS]  # the terms: 1/2 at t = 0, 1 at t = 0, 1 at t = H
    weight = weight_after(policy, Kind.PREFIX, uses)
    assert 2 ** (weight - 1) == pytest.approx(0.25 + 0.5 + 1)


# Cost.


@pytest.mark.parametrize(("dear", "cheap"), [list(Kind), list(Kind)[::-1]])
def test_of_equal_rates_what_is_dearer_to_bring_back_stays(dear: Kind, cheap: Kind) -> None:
    policy = saving(**{f"{dear.value}_s": 2e-3, f"{cheap.value}_s": 1e-3})
    dear_weight, cheap_weight = policy.first(dear), policy.first(cheap)
    assert policy.value(dear, dear_weight) > policy.value(cheap, cheap_weight)


def test_a_cost_twice_as_high_is_worth_twice_the_rate() -> None:
    policy = saving(prefix_s=4e-3, adapter_s=1e-3)
    weight = policy.first(Kind.PREFIX)
    difference = policy.value(Kind.PREFIX, weight) - policy.value(Kind.ADAPTER, weight)
    assert 2**difference == pytest.approx(4)


def test_what_was_measured_changes_what_goes_first() -> None:
    policy = saving(prefix_s=2e-3, adapter_s=1e-3)
    prefix, adapter = policy.first(Kind.PREFIX), policy.first(Kind.ADAPTER)
    assert policy.value(Kind.ADAPTER, adapter) < policy.value(Kind.PREFIX, prefix)
    for _ in range(50):
        policy.costs.observe(Kind.ADAPTER, seconds=0.5, num_pages=10)
    assert policy.value(Kind.ADAPTER, adapter) > policy.value(Kind.PREFIX, prefix)


@pytest.mark.parametrize(("kind", "other"), [list(Kind), list(Kind)[::-1]])
@given(seconds=st.floats(1e-6, 10), num_pages=st.integers(1, 1000))
@settings(max_examples=50, deadline=None)
def test_a_cost_follows_what_it_takes_lately_per_page(
    kind: Kind, other: Kind, seconds: float, num_pages: int
) -> None:
    costs = PageCosts(prefix_s=1e-3, adapter_s=1e-3)
    distances = []
    for _ in range(300):
        costs.observe(kind, seconds, num_pages)
        distances.append(abs(costs.of(kind) - seconds / num_pages))
    assert costs.of(kind) == pytest.approx(seconds / num_pages)
    assert distances == sorted(distances, reverse=True)
    assert costs.of(other) == 1e-3


@pytest.mark.parametrize("kind", Kind)
def test_one_measurement_moves_a_cost_a_little(kind: Kind) -> None:
    costs = PageCosts(prefix_s=1e-3, adapter_s=1e-3)
    costs.observe(kind, seconds=1.0, num_pages=1)
    assert 1e-3 < costs.of(kind) < 0.5


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(("seconds", "num_pages"), [(0.0, 5), (1.0, 0), (-1.0, 5)])
def test_what_measures_nothing_changes_no_cost(kind: Kind, seconds: float, num_pages: int) -> None:
    costs = PageCosts()
    costs.observe(kind, seconds, num_pages)
    assert costs == PageCosts()


# What is new is worth what new things have turned out to be worth.


@pytest.mark.parametrize(("kind", "other"), [list(Kind), list(Kind)[::-1]])
def test_after_many_that_were_never_used_again_a_new_one_is_worth_less(
    kind: Kind, other: Kind
) -> None:
    policy = saving()
    before = policy.first(kind)
    for _ in range(100):
        policy.first(kind)
    assert policy.first(kind) < before - 5  # a 32nd or less
    assert policy.first(other) == before


@pytest.mark.parametrize("kind", Kind)
def test_after_many_that_were_used_again_a_new_one_is_worth_more(kind: Kind) -> None:
    policy = saving()
    before = policy.first(kind)
    for _ in range(100):
        policy.again(kind, policy.first(kind), was_used_again=False)
    after = policy.first(kind)
    assert before < after
    assert 2**after == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("kind", Kind)
def test_one_that_is_used_over_and_over_counts_once(kind: Kind) -> None:
    policy = saving()
    weight = policy.first(kind)
    for index in range(50):
        weight = policy.again(kind, weight, was_used_again=index > 0)
    for _ in range(9):
        policy.first(kind)
    assert 2 ** policy.first(kind) == pytest.approx(share(num_used_again=1, num_came=10))


@given(came=st.lists(st.booleans(), max_size=60))
@settings(max_examples=50, deadline=None)
def test_the_share_is_that_of_all_that_came(came: list[bool]) -> None:
    """Each of these came, and was asked for again or was not."""
    policy = saving()
    for is_used_again in came:
        weight = policy.first(Kind.PREFIX)
        if is_used_again:
            policy.again(Kind.PREFIX, weight, was_used_again=False)
    assert 2 ** policy.first(Kind.PREFIX) == pytest.approx(share(sum(came), len(came)))


# The weight.


@given(
    uses=gaps,
    num_before=st.integers(0, 2000),
    came_before=st.lists(st.booleans(), max_size=10),
    half_life=st.sampled_from([8.0, 100.0, float(HALF_LIFE_REQUESTS)]),
    kind=st.sampled_from(Kind),
)
@settings(max_examples=100, deadline=None)
def test_the_weight_is_the_formula_over_all_uses(
    uses: Gaps, num_before: int, came_before: list[bool], half_life: float, kind: Kind
) -> None:
    policy = saving(half_life)
    for is_used_again in came_before:
        weight_after(policy, kind, [0] if is_used_again else [])
    ticks(policy, num_before)
    weight = weight_after(policy, kind, uses)
    times = [num_before]
    for gap in uses:
        times.append(times[-1] + gap)
    now = times[-1]
    p = share(sum(came_before), len(came_before))
    log2_rate = weight - now / half_life
    assert log2_rate == pytest.approx(math.log2(rate(now, times, p, half_life)), abs=1e-9)


@given(
    histories=st.tuples(gaps, gaps),
    kinds=st.tuples(st.sampled_from(Kind), st.sampled_from(Kind)),
    num_ticks=st.lists(st.integers(1, 1000), min_size=1, max_size=4),
    costs=st.tuples(st.floats(1e-4, 1e-1), st.floats(1e-4, 1e-1)),
)
@settings(max_examples=100, deadline=None)
def test_the_order_of_two_changes_only_by_use(
    histories: tuple[Gaps, Gaps],
    kinds: tuple[Kind, Kind],
    num_ticks: list[int],
    costs: tuple[float, float],
) -> None:
    """And it is the order that the formula gives, then and whenever one looks again."""
    half_life = 100.0
    policy = saving(half_life, prefix_s=costs[0], adapter_s=costs[1])
    now = 0
    weights, uses, shares = [], [], []
    num_came = dict.fromkeys(Kind, 0)
    num_used_again = dict.fromkeys(Kind, 0)
    for kind, history in zip(kinds, histories, strict=True):
        shares.append(share(num_used_again[kind], num_came[kind]))
        num_came[kind] += 1
        num_used_again[kind] += bool(history)
        weights.append(weight_after(policy, kind, history))
        times = [now]
        for gap in history:
            times.append(times[-1] + gap)
        now = times[-1]
        uses.append(times)

    def order_by_weight() -> bool:
        first, second = (policy.value(k, w) for k, w in zip(kinds, weights, strict=True))
        return first < second

    def order_by_formula(now: int) -> bool:
        worth = [
            rate(now, times, p, half_life) * policy.costs.of(kind)
            for times, p, kind in zip(uses, shares, kinds, strict=True)
        ]
        assume(not math.isclose(*worth, rel_tol=1e-9))
        return worth[0] < worth[1]

    expected = order_by_formula(now)
    assert order_by_weight() == expected
    for num_more in num_ticks:
        ticks(policy, num_more)
        now += num_more
        assert order_by_weight() == expected
        assert order_by_formula(now) == expected


def test_ten_million_requests_overflow_nothing() -> None:
    policy = SavingPolicy(PageCosts())
    forgotten = weight_after(policy, Kind.ADAPTER, [1] * 100)
    ticks(policy, 10_000_000)
    used_again = policy.again(Kind.ADAPTER, forgotten, was_used_again=True)
    new = policy.first(Kind.ADAPTER)
    values = [policy.value(Kind.ADAPTER, weight) for weight in (forgotten, new, used_again)]
    assert all(math.isfinite(value) for value in values)
    assert values == sorted(values)
    log2_rate = used_again - (10_000_000 + 100) / HALF_LIFE_REQUESTS
    assert log2_rate == pytest.approx(0.0, abs=1e-6)
    newer = [policy.again(Kind.ADAPTER, new, was_used_again=False) for _ in range(2)]
    assert newer[0] > used_again > new


# For comparison.


def test_least_recently_used_knows_neither_counts_nor_costs() -> None:
    policy = LruPolicy()
    often = weight_after(policy, Kind.PREFIX, [1] * 10)
    policy.tick()
    once = policy.first(Kind.ADAPTER)
    assert policy.value(Kind.PREFIX, often) < policy.value(Kind.ADAPTER, once)
