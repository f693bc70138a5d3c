"""Max-min fair shares and Jain's index, on cases done by hand and on any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.bench.fairness import fair_shares, jain_index, shares_got

amounts = st.lists(st.integers(1, 10_000), min_size=1, max_size=50)


def test_who_asks_for_little_gets_it_and_the_others_divide_the_rest() -> None:
    assert fair_shares([100, 2, 100], 20).tolist() == [9, 2, 9]
    assert fair_shares([5, 5, 5], 15).tolist() == [5, 5, 5]
    assert fair_shares([4, 8, 100], 30).tolist() == [4, 8, 18]


def test_a_flood_that_takes_from_a_polite_one_is_unfair() -> None:
    by_arrival = shares_got([1000, 50], [286, 14])
    by_turns = shares_got([1000, 50], [250, 50])
    assert by_turns.tolist() == [1, 1]
    assert by_arrival.tolist() == pytest.approx([286 / 250, 14 / 50])
    assert jain_index(by_turns) == 1
    assert (jain_index(by_arrival) or 1) < 0.75


def test_nothing_got_is_no_fairness() -> None:
    assert shares_got([3, 4], [0, 0]).size == 0
    assert jain_index([]) is None
    assert jain_index([0.0, 0.0]) is None


def test_jain_index_of_one_that_takes_all() -> None:
    assert jain_index([7.0, 0.0, 0.0, 0.0]) == pytest.approx(1 / 4)
    assert jain_index([1.0, 2.0]) == pytest.approx(0.9)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50))
def test_jain_index_is_between_its_bounds(values: list[float]) -> None:
    index = jain_index(values)
    assert index is not None
    assert 1 / len(values) * 0.999999 <= index <= 1.000001


@given(amounts, st.data())
def test_fair_shares_are_max_min(asked: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(asked)))
    shares = fair_shares(asked, total)
    assert shares.sum() == pytest.approx(total)
    assert (shares >= 0).all()
    largest = shares.max()
    for share, wanted in zip(shares, asked, strict=True):
        assert share <= wanted + 1e-9
        # Whoever has less than the largest share has all that was asked for.
        assert share == pytest.approx(largest) or share == pytest.approx(wanted)
