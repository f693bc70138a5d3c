"""Each adapter of a workload has a model, by the rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.bench.naming import model_names

NAMES = st.lists(st.text("abc{}", min_size=1, max_size=3), max_size=6, unique=True)


def test_the_same_name_goes_before_the_template() -> None:
    names = model_names(["x", "served"], ["base", "served"], "base", "lora-{index}-{name}")
    assert names == {None: "base", "x": "lora-0-x", "served": "served"}


def test_without_a_template_the_served_ones_take_turns() -> None:
    names = model_names(["p", "q", "r"], ["base", "a", "b"], "base", None)
    assert names == {None: "base", "p": "a", "q": "b", "r": "a"}


def test_a_template_is_no_program() -> None:
    names = model_names(["{index}"], ["base"], "base", "{name.__class__}{0}{}")
    assert names["{index}"] == "{name.__class__}{0}{}"


def test_there_is_nothing_to_ask() -> None:
    assert model_names([], ["base"], "base", None) == {None: "base"}
    with pytest.raises(ValueError, match="lists none beside 'base'"):
        model_names(["x"], ["base"], "base", None)


@given(NAMES, NAMES, st.none() | st.just("t"))
def test_every_adapter_has_a_model(
    adapters: list[str], served: list[str], template: str | None
) -> None:
    names = model_names(adapters, ["base", *served, "one"], "base", template)
    assert set(names) == {None, *adapters}
    assert set(names.values()) <= {"base", "one", *served, *([template] if template else [])}
