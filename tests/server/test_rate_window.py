"""The sliding window: whatever is charged, refunded and waited for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from motet.server.rate_window import WINDOW_S, RateWindow

LIMIT = 20


class Clock:
    def __init__(self, now_s: float = 1000.25) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class LimitedUser(RuleBasedStateMachine):
    """Charges whenever the window has room, and keeps a log of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.window = RateWindow(self.clock)
        self.log: list[list[float]] = []  # [time, slot, amount that still counts]

    @rule(amount=st.integers(1, LIMIT))
    def use(self, amount: int) -> None:
        if self.window.wait_s(amount, LIMIT) == 0:
            self.log.append([self.clock(), self.window.charge(amount), amount])

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        if self.log:
            entry = data.draw(st.sampled_from(self.log))
            amount = data.draw(st.integers(0, int(entry[2])))
            self.window.refund(int(entry[1]), amount)
            entry[2] -= amount

    @rule(amount=st.integers(1, LIMIT))
    def wait_as_told(self, amount: int) -> None:
        wait_s = self.window.wait_s(amount, LIMIT)
        assert wait_s is not None
        assert 0 <= wait_s <= WINDOW_S + 1
        if wait_s > 0.01:  # a moment earlier it does not fit yet
            self.clock.now_s += wait_s - 0.005
            assert self.window.wait_s(amount, LIMIT) != 0
            self.clock.now_s += 0.01
        assert self.window.wait_s(amount, LIMIT) == 0

    @invariant()
    def never_more_than_the_limit_in_any_minute(self) -> None:
        for end_s, _, _ in self.log:
            within = [amount for at_s, _, amount in self.log if end_s - WINDOW_S < at_s <= end_s]
            assert sum(within) <= LIMIT

    @invariant()
    def what_counts_is_what_was_charged_and_not_refunded(self) -> None:
        now_s = self.clock()
        recent = sum(amount for at_s, _, amount in self.log if at_s > now_s - WINDOW_S)
        lately = sum(amount for at_s, _, amount in self.log if at_s > now_s - WINDOW_S - 1)
        assert 0 <= recent <= self.window.used <= lately <= LIMIT * 2

    @invariant()
    def it_is_empty_when_it_says(self) -> None:
        reset_s = self.window.reset_s()
        assert 0 <= reset_s <= WINDOW_S + 1
        assert (reset_s == 0) == (not self.window._slots)


TestLimitedUser = LimitedUser.TestCase


def test_more_than_the_limit_never_fits() -> None:
    window = RateWindow(Clock())
    assert window.wait_s(LIMIT + 1, LIMIT) is None
    assert window.wait_s(LIMIT, LIMIT) == 0


def test_a_limit_that_is_lowered_counts_what_was_used_under_the_old_one() -> None:
    clock = Clock(0.0)
    window = RateWindow(clock)
    window.charge(10)
    clock.now_s = 30.0
    window.charge(4)
    assert window.wait_s(1, 5) == 31.0  # until the 10 are gone; the 4 leave room for one
    assert window.wait_s(2, 5) == 61.0


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=200))
def test_it_stays_small(times: list[float]) -> None:
    clock = Clock()
    window = RateWindow(clock)
    for time_s in sorted(times):
        clock.now_s = time_s
        window.charge(1)
    assert len(window._slots) <= WINDOW_S + 1


def test_a_refund_of_long_ago_gives_nothing_back() -> None:
    clock = Clock(0.0)
    window = RateWindow(clock)
    slot = window.charge(5)
    clock.now_s = 100.0
    window.charge(3)
    window.refund(slot, 5)
    assert window.used == 3
    assert window.wait_s(1, 3) == pytest.approx(61.0)
