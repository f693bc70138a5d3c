"""Small requests before large ones, with shares that starve nobody."""

import random

from hypothesis import given
from hypothesis import strategies as st

from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policies.size_aware import (
    AVERAGED_REQUESTS,
    REMEMBERED_ADAPTERS,
    OutputLengths,
    SizeAware,
)
from motet.scheduler.policy import Policy, PolicyFactory, QueuedRequest
from tests.scheduler.policies.lab import Device, Lab, Played, Work


def _request(
    arrival: int,
    num_prompt_tokens: int = 1,
    *,
    adapters: tuple[str, ...] = (),
    num_adapter_tokens: int = 0,
    max_output_tokens: int = 0,
) -> QueuedRequest:
    return QueuedRequest(
        request_id=f"r{arrival}",
        arrival=arrival,
        adapters=adapters,
        num_adapter_tokens=num_adapter_tokens,
        num_prompt_tokens=num_prompt_tokens,
        max_output_tokens=max_output_tokens,
    )


def _policy(lengths: OutputLengths | None = None) -> SizeAware:
    return SizeAware(lengths or OutputLengths())


def _call_all(policy: Policy) -> list[QueuedRequest]:
    called = []
    while (request := policy.next(())) is not None:
        policy.call(request)
        called.append(request)
    return called


def test_requests_of_one_size_are_served_in_order() -> None:
    policy = _policy()
    requests = [_request(arrival, 1000 - 10 * arrival) for arrival in range(20)]
    for request in requests:
        policy.add(request)
    assert _call_all(policy) == requests


def test_small_ones_do_not_wait_behind_large_ones() -> None:
    policy = _policy()
    large = [_request(arrival, 1000) for arrival in range(3)]
    small = [_request(3 + arrival, 10) for arrival in range(50)]
    for request in large + small:
        policy.add(request)
    called = _call_all(policy)
    assert called[0] is small[0]
    assert called[1] is large[0]
    assert called[2:-2] == small[1:]
    assert called[-2:] == large[1:]


def test_a_stream_of_small_ones_does_not_starve_a_large_one() -> None:
    policy = _policy()
    policy.add(first := _request(0, 1000))
    policy.add(second := _request(1, 1000))
    called = []
    for arrival in range(2, 400):
        policy.add(_request(arrival, 10))
        request = policy.next(())
        assert request is not None
        policy.call(request)
        called.append(request)
    assert called.index(first) == 1
    assert 100 <= called.index(second) <= 103  # as much of the small ones: 100 of 10 tokens


def test_who_did_not_wait_has_no_claim_to_what_it_missed() -> None:
    policy = _policy()
    for arrival in range(20):
        policy.add(_request(arrival, 1000))
    for _ in range(10):
        request = policy.next(())
        assert request is not None
        policy.call(request)
    for arrival in range(20, 420):
        policy.add(_request(arrival, 10))
    called = _call_all(policy)
    # A share each from now on, and no 10,000 tokens of small ones to begin with.
    assert sum(request.num_prompt_tokens == 1000 for request in called[:210]) >= 2


def test_once_nobody_waits_no_class_owes_anything() -> None:
    policy = _policy()
    for arrival in range(10):
        policy.add(_request(arrival, 1000))
    _call_all(policy)
    for arrival in range(10, 60):
        policy.add(_request(arrival, 10))
    policy.add(large := _request(60, 1000))
    assert _call_all(policy).index(large) <= 1


def test_adapters_and_output_count() -> None:
    policy = _policy()
    policy.add(with_adapter := _request(0, 10, adapters=("a",), num_adapter_tokens=5000))
    policy.add(with_output := _request(1, 10, max_output_tokens=200))
    policy.add(plain := _request(2, 10))
    assert _call_all(policy) == [plain, with_output, with_adapter]


def test_an_unknown_output_is_expected_to_be_as_long_as_it_may() -> None:
    assert OutputLengths().predict(_request(0, max_output_tokens=77)) == 77


def test_outputs_are_predicted_by_adapter_then_by_all() -> None:
    lengths = OutputLengths()
    for num_tokens in (10, 21):
        lengths.learn(_request(0, adapters=("short",)), num_tokens)
    lengths.learn(_request(0, adapters=("long",)), 200)
    asked = {
        name: lengths.predict(_request(1, adapters=(name,), max_output_tokens=150))
        for name in ("short", "long", "new")
    }
    assert asked == {"short": 16, "long": 150, "new": 77}


def test_predictions_follow_a_change() -> None:
    lengths = OutputLengths()
    for num_tokens in [500] * 1000 + [20] * 6 * AVERAGED_REQUESTS:
        lengths.learn(_request(0), num_tokens)
    assert 20 <= lengths.predict(_request(1, max_output_tokens=1000)) <= 25


def test_the_adapters_used_least_recently_are_forgotten() -> None:
    lengths = OutputLengths()
    lengths.learn(_request(0, adapters=("old",)), 1)
    lengths.learn(_request(0, adapters=("used",)), 1)
    for index in range(REMEMBERED_ADAPTERS):
        lengths.learn(_request(0, adapters=("used",)), 1)
        lengths.learn(_request(0, adapters=(f"a{index}",)), 99)
    assert lengths.predict(_request(1, adapters=("used",), max_output_tokens=99)) == 1
    assert lengths.predict(_request(1, adapters=("old",), max_output_tokens=99)) > 1


def test_a_policy_learns_from_those_that_got_tokens() -> None:
    lengths = OutputLengths()
    policy = _policy(lengths)
    for arrival, counts in enumerate([(3, 4), ()]):  # the second ends before it has any
        policy.add(request := _request(arrival, max_output_tokens=100))
        policy.call(request)
        policy.start(request, 0.0)
        for num_tokens in counts:
            policy.count_output(request, num_tokens, 1.0)
        policy.end(request)
    assert lengths.predict(_request(2, max_output_tokens=100)) == 7
    other_priority = _policy(lengths)
    other_priority.add(small := _request(3, 2, max_output_tokens=100))  # 2 + 2 * 7
    other_priority.add(smaller := _request(4, 2))
    assert _call_all(other_priority) == [smaller, small]


def test_upcoming_is_the_order_of_calls_if_nobody_comes() -> None:
    rng = random.Random(5)
    policy = _policy()
    for arrival in range(200):
        policy.add(_request(arrival, rng.choice([3, 30, 300, 3000]) + rng.randint(0, 2)))
        if rng.random() < 0.3 and (request := policy.next(())) is not None:
            policy.call(request)
    upcoming = policy.upcoming(200)
    assert policy.upcoming(7) == upcoming[:7]
    assert _call_all(policy) == upcoming


SIZES = (5, 100, 2000)


@given(st.lists(st.sampled_from([*SIZES, None, None]), max_size=300))
def test_no_class_gets_ahead_by_more_than_two_largest_requests(events: list[int | None]) -> None:
    """Of those that wait all the time: over any stretch of calls, from any start.

    Args:
        events: a size arrives, or the next one is called.
    """
    policy = _policy()
    served = dict.fromkeys(SIZES, 0)
    num_waiting = dict.fromkeys(SIZES, 0)
    # What one had been served more than the other, at least and at most, while both have waited.
    leads: dict[tuple[int, int], tuple[int, int]] = {}
    for arrival, size in enumerate(events):
        if size is None and (request := policy.next(())) is not None:
            policy.call(request)
            served[request.num_prompt_tokens] += request.num_prompt_tokens
            num_waiting[request.num_prompt_tokens] -= 1
        elif size is not None:
            policy.add(_request(arrival, size))
            num_waiting[size] += 1
        for one in SIZES:
            for other in (each for each in SIZES if each < one):
                lead = served[one] - served[other]
                if num_waiting[one] and num_waiting[other]:
                    least, most = leads.get((one, other), (lead, lead))
                    leads[one, other] = min(least, lead), max(most, lead)
                    least, most = leads[one, other]
                    assert most - least <= one + other
                else:
                    leads.pop((one, other), None)


def _mixed_works(num_requests: int, rate_per_s: float) -> list[Work]:
    """One in eight is about thirty times as large as the others."""
    rng = random.Random(3)
    now_s, works = 0.0, []
    for arrival in range(num_requests):
        now_s += rng.expovariate(rate_per_s)
        is_large = rng.random() < 1 / 8
        request = QueuedRequest(
            request_id=f"r{arrival}",
            arrival=arrival,
            queued_s=now_s,
            adapters=("large",) if is_large else ("small",),
            num_adapter_tokens=64,
            num_prompt_tokens=rng.randint(1000, 3000) if is_large else rng.randint(16, 64),
            max_output_tokens=1024,
        )
        works.append(Work(request, rng.randint(300, 500) if is_large else rng.randint(5, 15)))
    return works


def _p99_ttft_s(played: list[Played], adapter: str) -> float:
    times = sorted(each.ttft_s for each in played if each.work.request.adapters == (adapter,))
    return times[int(0.99 * len(times))]


def _play(make_policy: PolicyFactory) -> list[Played]:
    device = Device(max_running=32, num_tokens=40_000)
    return Lab(make_policy, device).play(_mixed_works(10_000, rate_per_s=10.0))


def test_small_requests_wait_less_and_large_ones_little_more() -> None:
    """Plays 20,000 requests, a little more than can be served, in about a second."""
    lengths = OutputLengths()
    first_come, by_size = _play(Fcfs), _play(lambda: SizeAware(lengths))
    assert all(each.ended_s is not None for each in by_size)
    assert _p99_ttft_s(by_size, "small") < _p99_ttft_s(first_come, "small") / 3
    assert _p99_ttft_s(by_size, "large") < 1.5 * _p99_ttft_s(first_come, "large")
