"""Points of plots: bins, curves, thinning."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.bench.report import series
from tests.bench.runs import record


@given(st.integers(0, 5000), st.integers(2, 500))
def test_thinning_keeps_both_ends_and_the_order(count: int, limit: int) -> None:
    kept = series.thin_indices(count, limit)
    assert len(kept) == min(count, limit)
    assert (np.diff(kept) > 0).all()
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)


@given(st.floats(0, 1e6))
def test_bins_cover_the_run_and_are_few(end_s: float) -> None:
    edges_s = series.bin_edges(end_s)
    assert edges_s[0] == 0
    assert edges_s[-1] >= end_s * (1 - 1e-9)
    assert 2 <= len(edges_s) <= series.NUM_BINS + 2


def test_rates_and_shares() -> None:
    edges_s = np.array([0.0, 2.0, 4.0, 6.0])
    times_s = np.array([0.5, 1.0, 1.5, 4.5])
    assert series.rates(times_s, edges_s).tolist() == [1.5, 0, 0.5]
    good = np.array([True, False, False, True])
    shares = series.shares(times_s, good, edges_s)
    assert shares.tolist() == pytest.approx([1 / 3, np.nan, 1], nan_ok=True)


def test_tokens_are_divided_among_pieces() -> None:
    requests = [
        record(0, piece_times_s=[1.0, 2.0], num_output_tokens=5),
        record(1, piece_times_s=[], num_output_tokens=9),
    ]
    times_s, tokens = series.tokens_over_time(requests)
    assert (times_s.tolist(), tokens.tolist()) == ([1, 2], [2.5, 2.5])


def test_a_curve_of_a_larger_total_stays_below_1() -> None:
    values, shares = series.distribution_curve(np.array([3.0, np.nan, 1.0]), 4)
    assert (values.tolist(), shares.tolist()) == ([1, 3], [0.25, 0.5])


def test_lorenz_curve() -> None:
    who, had = series.lorenz_curve(np.array([3.0, 0.0, 1.0]))
    assert who.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert had.tolist() == [0, 0, 0.25, 1]
