"""Figures as a reader sees them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.bench.report.plots import log_limits, plain_time
from motet.bench.report.text import clean, index, number, percent, seconds


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (12, "12"),
        (1234.5, "1,234"),
        (3.14159, "3.14"),
        (99.97, "100"),
        (0.0123, "0.0123"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0354, "35.4 ms"),
        (0.9996, "1 s"),
        (1.254, "1.25 s"),
        (213.4, "213 s"),
        (425, "7 min 5 s"),
        (7260, "2 h 1 min"),
    ],
)
def test_times(value: float, shown: str) -> None:
    assert seconds(value) == shown


def test_what_cannot_be_told_is_a_dash() -> None:
    dash = "\N{EN DASH}"
    assert [show(None) for show in (number, seconds, percent, index)] == [dash] * 4
    assert (percent(0.8749), index(0.5)) == ("87.5 %", "0.500")


@given(st.text(), st.integers(1, 50))
def test_cleaned_text_is_short_and_visible(text: str, max_chars: int) -> None:
    shown = clean(text, max_chars)
    assert len(shown) <= max_chars
    assert shown.isprintable() or "\N{REPLACEMENT CHARACTER}" in shown


@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_limits_of_a_scale_are_round_and_around(one: float, other: float) -> None:
    low, high = sorted([one, other])
    bottom, top = log_limits(low, high)
    assert bottom < top
    assert bottom <= max(low, 1e-4) * 1.00001
    assert top >= high * 0.99999
    assert len(plain_time(top).split()[0]) <= 6
