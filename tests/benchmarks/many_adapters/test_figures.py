"""Medians come with their spread."""

import pytest

from benchmarks.many_adapters.figures import p99, spread


def test_spread_keeps_every_repeat() -> None:
    assert spread([0.9, 1.23456, 0.8]) == {
        "median": 0.9,
        "min": 0.8,
        "max": 1.2346,
        "repeats": [0.9, 1.2346, 0.8],
    }


def test_one_repeat_is_its_own_spread() -> None:
    assert spread([0.5]) == {"median": 0.5, "min": 0.5, "max": 0.5, "repeats": [0.5]}


def test_p99_is_what_one_in_a_hundred_exceeds() -> None:
    assert p99([float(value) for value in range(101)]) == pytest.approx(99.0)
    assert p99([1.0, 1.0]) == 1.0
