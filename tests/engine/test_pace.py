"""Loads give way to the step: by how much, and when not. Naps are counted, not slept."""

import pytest

from motet.engine import pace as pace_module
from motet.engine.pace import LoadPace


class Clock:
    """Processor time that a test lets pass, and the naps that are taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worked_s = 0.0
        self.napped_s = 0.0
        self.num_naps = 0
        monkeypatch.setattr(pace_module.time, "thread_time", lambda: self.worked_s)
        monkeypatch.setattr(pace_module.time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.napped_s += seconds
        self.num_naps += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def share_of_core(clock: Clock, num_pending: int, *, is_stepping: bool = True) -> float:
    """What a load gets that works for a second in pieces of a fifth of a millisecond."""
    pace = LoadPace()
    pace.is_stepping = is_stepping
    for _ in range(num_pending):
        pace.add()
    one = pace.begin()
    for _ in range(5000):
        clock.worked_s += 0.0002
        one()
    return clock.worked_s / (clock.worked_s + clock.napped_s)


def test_a_single_load_takes_a_small_share(clock: Clock) -> None:
    assert share_of_core(clock, 1) == pytest.approx(0.03, rel=0.05)


def test_several_take_more_than_in_proportion(clock: Clock) -> None:
    assert share_of_core(clock, 3) == pytest.approx(0.27, rel=0.05)


def test_many_take_all_they_can(clock: Clock) -> None:
    assert share_of_core(clock, 6) == 1.0


def test_nobody_waits_while_the_engine_is_idle(clock: Clock) -> None:
    assert share_of_core(clock, 1, is_stepping=False) == 1.0


def test_it_rests_seldom(clock: Clock) -> None:
    """Each waking costs the step something: not after every piece of work."""
    share_of_core(clock, 1)
    assert clock.num_naps < 1100


def test_loads_that_end_are_not_counted(clock: Clock) -> None:
    pace = LoadPace()
    pace.is_stepping = True
    for _ in range(9):
        pace.add()
    for _ in range(8):
        pace.remove()
    one = pace.begin()
    clock.worked_s += 0.003
    one()
    assert clock.napped_s == pytest.approx(0.003 / 0.03 - 0.003)
