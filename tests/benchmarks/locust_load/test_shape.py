"""Locust is told of the right number of users, and of the end."""

from dataclasses import replace

import pytest

from benchmarks.locust_load.shape import Course, LoadShape
from benchmarks.locust_load.shapes import make_shape

COURSE = Course(
    shape=None, num_users=8, spawn_rate=2, run_time_s=None, num_processes=1, is_open_loop=False
)


def test_a_ramp_changes_the_number_of_users() -> None:
    course = replace(COURSE, shape=make_shape("ramp", 100.0, 4.0))
    users = [course.users_at(at_s) for at_s in (0.0, 50.0, 99.9, 100.0)]
    assert users == [(8, 8), (20, 20), (32, 32), None]


def test_without_a_shape_it_is_as_locust_has_it_until_the_run_time() -> None:
    assert COURSE.users_at(1e9) == (8, 2)
    course = replace(COURSE, run_time_s=30)
    assert course.users_at(29.9) == (8, 2)
    assert course.users_at(30.0) is None


def test_every_process_has_a_user_and_in_an_open_loop_just_one() -> None:
    assert replace(COURSE, num_users=1, num_processes=3).users_at(0.0) == (3, 2)
    course = replace(
        COURSE, shape=make_shape("ramp", 10.0, 9.0), num_processes=3, is_open_loop=True
    )
    assert course.users_at(9.0) == (3, 3)
    assert course.users_at(10.0) is None


def test_it_says_once_that_the_time_is_up_and_ends_when_all_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [0.0]
    over = [False]
    calls = []
    shape = LoadShape(
        lambda: replace(COURSE, run_time_s=5), lambda: over[0], lambda: calls.append(now_s[0])
    )
    monkeypatch.setattr(shape, "get_run_time", lambda: now_s[0])
    ticks = []
    for now_s[0] in (0.0, 4.0, 6.0, 7.0):
        ticks.append(shape.tick())
    assert ticks == [(8, 2)] * 4  # requests are still running
    assert calls == [6.0]
    over[0] = True
    assert shape.tick() is None
    over[0] = False
    shape.reset_time()
    assert shape.tick() == (8, 2)
    assert calls == [6.0, 7.0]  # the next load test has its own
