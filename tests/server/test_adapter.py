"""Aliases as values: shares, stickiness, history."""

from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from motet.server.adapter import (
    MAX_HISTORY,
    Adapter,
    Alias,
    Source,
    SourceType,
    Version,
    normalized,
)

WEIGHTS = st.dictionaries(st.integers(1, 9), st.floats(1e-6, 1e6), min_size=1, max_size=6).map(
    normalized
)


def adapter(num_versions: int = 3) -> Adapter:
    made = Adapter("mine")
    for number in range(1, num_versions + 1):
        source = Source(SourceType.PATH, "x")
        made = made.put(Version("mine", number, source, Path("/x"), 0))
    return made


@given(WEIGHTS, st.text())
def test_a_choice_is_one_of_the_versions_and_stays(weights: dict[int, float], key: str) -> None:
    assert sum(weights.values()) == pytest.approx(1)
    assert list(weights) == sorted(weights)
    alias = Alias(weights)
    assert alias.choose("mine", key) in weights
    assert alias.choose("mine", key) == Alias(weights).choose("mine", key)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.text())
def test_whoever_has_the_newest_version_keeps_it_while_it_grows(
    one: float, other: float, key: str
) -> None:
    small, large = sorted((one, other))
    before = Alias(normalized({1: 1 - small, 2: small})).choose("mine", key)
    after = Alias(normalized({1: 1 - large, 2: large})).choose("mine", key)
    assert after >= before


def test_shares_are_what_was_asked_for() -> None:
    alias = Alias(normalized({3: 95.0, 4: 5.0}))
    chosen = Counter(alias.choose("mine", f"user-{index}") for index in range(10_000))
    assert chosen[3] + chosen[4] == 10_000
    assert 400 <= chosen[4] <= 600
    # The users of a canary of one name are not those of every name's.
    assert any(
        alias.choose("mine", str(user)) != alias.choose("other", str(user)) for user in range(1000)
    )


def test_an_etag_never_comes_again() -> None:
    first = adapter().point({1: 1})
    assert first.point({1: 7}) is first  # no change
    etags = [first.alias, first.point({2: 1}).alias, first.point({2: 1}).roll_back().alias]
    assert len({alias.etag for alias in etags if alias is not None}) == 3


def test_history_is_bounded_and_knows_no_deleted_version() -> None:
    made = adapter()
    for index in range(2 * MAX_HISTORY):
        made = made.point({1 + index % 3: 1})
    assert len(made.history) == MAX_HISTORY
    made = made.point({3: 1}).drain({1})
    assert all(1 not in weights for weights in made.history)


def test_what_is_left_of_an_alias_takes_over() -> None:
    alias = adapter().point({1: 1, 2: 1, 3: 2}).drain({3}).alias
    assert alias is not None
    assert alias.weights == {1: 0.5, 2: 0.5}
    assert adapter().point({1: 1}).drain({1, 2, 3}).alias is None


def test_numbers_come_again_only_if_nobody_can_have_used_them() -> None:
    made = adapter(2)
    assert made.drop(2).next_number == 2
    assert made.drop(1).next_number == 3
