"""What is known of the rate of service, and when."""

import pytest

from motet.scheduler.policies.service_rate import ServiceRate

HORIZON_S = 6.0


def known(rate: ServiceRate) -> float:
    assert rate.wait_s is not None
    return rate.wait_s


def serve_backlog(rate: ServiceRate, start_s: float, num: int, every_s: float) -> float:
    """One starts now and then, while others wait; when that ends."""
    rate.arrive(0, start_s)
    for index in range(num):
        rate.arrive(0, start_s + index * every_s)
        rate.call(0)
        rate.start(0, start_s + (index + 1) * every_s)
    rate.leave(0, is_called=False)
    return start_s + num * every_s


def test_nothing_is_known_at_the_beginning() -> None:
    rate = ServiceRate(HORIZON_S)
    assert rate.wait_s is None
    assert not rate.is_overloaded
    for index in range(20):
        rate.arrive(0, 0.1 * index)
    rate.advance(60.0)
    assert rate.wait_s is None, "nobody has started yet"


def test_the_rate_is_that_of_starts_while_others_wait() -> None:
    rate = ServiceRate(HORIZON_S)
    serve_backlog(rate, 0.0, 60, 0.5)
    assert known(rate) == pytest.approx(0.5, rel=0.1)


def test_a_server_that_is_seldom_asked_is_not_slow() -> None:
    """One request in 10 s, each called at once: that is not all it could do."""
    rate = ServiceRate(HORIZON_S)
    for index in range(100):
        rate.arrive(0, 10.0 * index)
        rate.advance(10.0 * index + 0.02)
        rate.call(0)
        rate.start(0, 10.0 * index + 0.02)
        assert rate.wait_s is None


def test_those_who_wait_for_their_adapters_tell_nothing() -> None:
    rate = ServiceRate(HORIZON_S)
    rate.arrive(0, 0.0)
    rate.call(0)
    for index in range(50):
        rate.arrive(0, 1.0 * index)
        rate.call(0)
        rate.start(0, 1.0 * index)
    assert rate.wait_s is None


def test_it_is_forgotten_when_nobody_waits_for_a_while() -> None:
    rate = ServiceRate(HORIZON_S)
    end_s = serve_backlog(rate, 0.0, 60, 0.5)
    rate.advance(end_s + 1.0)
    assert known(rate) == pytest.approx(0.5, rel=0.1)
    rate.advance(end_s + 2 * HORIZON_S)
    assert rate.wait_s is None


def test_what_is_expected_grows_while_nobody_starts_and_shrinks_at_once() -> None:
    rate = ServiceRate(HORIZON_S)
    end_s = serve_backlog(rate, 0.0, 60, 0.5)
    rate.arrive(0, end_s)
    rate.advance(end_s + 3 * HORIZON_S)
    stalled = known(rate)
    assert stalled > 5.0
    rate.call(0)
    rate.start(0, end_s + 3 * HORIZON_S)
    assert known(rate) < 0.6 * stalled


@pytest.mark.parametrize("back_s", [0.0, 1.0, 1e9])
def test_a_clock_that_stands_or_goes_back_ages_nothing(back_s: float) -> None:
    rate = ServiceRate(HORIZON_S)
    end_s = serve_backlog(rate, 0.0, 60, 0.5)
    before = known(rate)
    rate.arrive(0, end_s)
    rate.advance(end_s - back_s)
    assert rate.wait_s == before


def test_a_clock_that_jumps_ahead_leaves_what_can_be_used() -> None:
    rate = ServiceRate(HORIZON_S)
    end_s = serve_backlog(rate, 0.0, 60, 0.5)
    rate.arrive(0, end_s)
    rate.advance(end_s + 1e9)
    assert rate.wait_s is None
    serve_backlog(rate, end_s + 1e9, 60, 0.5)
    assert known(rate) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize(("arrivals_per_start", "is_overloaded"), [(0.7, False), (1.5, True)])
def test_it_is_overloaded_if_more_arrive_than_start(
    arrivals_per_start: float, is_overloaded: bool
) -> None:
    rate = ServiceRate(HORIZON_S)
    for _ in range(500):
        rate.arrive(0, 0.0)
    rate.advance(10 * HORIZON_S)  # they were many once
    num_arrivals = 0.0
    for index in range(100):
        now_s = 10 * HORIZON_S + 0.25 * index
        num_arrivals += arrivals_per_start
        while num_arrivals >= 1.0:
            rate.arrive(0, now_s)
            num_arrivals -= 1.0
        rate.call(0)
        rate.start(0, now_s)
    assert rate.is_overloaded == is_overloaded


def test_those_of_lower_numbers_are_before() -> None:
    rate = ServiceRate(HORIZON_S)
    for priority in (-1, 0, 0, 3, 3):
        rate.arrive(priority, 0.0)
    rate.call(0)
    assert [rate.num_before(priority) for priority in (-1, 0, 1, 3, 4)] == [0, 1, 3, 3, 5]
    rate.start(0, 0.0)
    rate.leave(0, is_called=False)
    rate.call(3)
    rate.leave(3, is_called=True)
    assert [rate.num_before(priority) for priority in (0, 3, 4)] == [1, 1, 2]


def test_the_time_to_the_first_token_is_a_moving_average() -> None:
    rate = ServiceRate(HORIZON_S)
    assert rate.first_token_s == 0.0
    rate.observe_first_token(0.4)
    assert rate.first_token_s == 0.4
    for _ in range(60):
        rate.observe_first_token(0.1)
    assert rate.first_token_s == pytest.approx(0.1, abs=0.01)
