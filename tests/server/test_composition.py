"""How compositions may be spelt, what can be in one, and what is known of it from its parts."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec.structs import replace as changed

from motet.adapters.roots import adapter_name_is_valid
from motet.core.composition import MAX_PARTS, composition_digest
from motet.core.errors import MotetError
from motet.core.messages import AdapterInfo, RoutedSetInfo, WeightedAdapter
from motet.server.adapter import Part, Source, SourceType, Version
from motet.server.composition import composed_info, require_composable, spelt_parts

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,20}", fullmatch=True)
MODELS = st.builds(lambda name, version: name + version, NAMES, st.sampled_from(["", "@2", "@v13"]))
BASES = st.one_of(NAMES, st.text(min_size=1, max_size=20))
RED, BLUE = AdapterInfo("a" * 64, 8, ["v", "q"], 100, 3), AdapterInfo("b" * 64, 4, ["q"], 7, 2)


@given(models=st.lists(MODELS, min_size=1, max_size=MAX_PARTS, unique=True), base=BASES)
def test_what_is_joined_comes_apart(models: list[str], base: str) -> None:
    for prefix in ("", f"{base}:"):
        spelling = prefix + "+".join(models)
        if spelling == base:
            continue
        parts = spelt_parts(spelling, base)
        if len(models) > 1 and "+" not in base:
            assert list(parts) == models
        assert set(parts.values()) == {1.0}


@given(model=st.text(alphabet="ab+@:./ é\x00", max_size=40), base=st.sampled_from(["a", "b+a"]))
def test_any_text_is_a_few_spellings_or_refused(model: str, base: str) -> None:
    try:
        parts = spelt_parts(model, base)
    except MotetError as error:
        refusal = error.code, error.param
        assert "+" in model
    else:
        refusal = None
        assert 1 <= len(parts) <= MAX_PARTS
        assert len(parts) == 1 or all(part and "+" not in part for part in parts)
        # Nothing is lost, and nothing comes from elsewhere.
        assert "+".join(parts) in (model, model.removeprefix(f"{base}:"))
    assert refusal in (None, ("invalid_value", "model"))


def test_no_adapter_has_a_plus_in_its_name() -> None:
    assert not adapter_name_is_valid("red+blue")


def test_a_base_model_with_a_plus_in_its_name_is_one_model() -> None:
    assert spelt_parts("c++", "c++") == {"c++": 1.0}
    assert spelt_parts("c++:red+blue", "c++") == {"red": 1.0, "blue": 1.0}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("+".join(f"a{index}" for index in range(MAX_PARTS + 1)), "more than 8 adapters"),
        ("red+", "on either side"),
        ("+red", "on either side"),
        ("red++blue", "on either side"),
        ("base:+", "on either side"),
        ("red+blue+red", "'red' twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(model: str, message: str) -> None:
    with pytest.raises(MotetError, match=message) as caught:
        spelt_parts(model, "base")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "model")


def version(name: str, info: AdapterInfo | None) -> Version:
    return Version(name, 1, Source(SourceType.PATH, name), None, 0, info=info)


def test_what_cannot_be_a_part_is_said() -> None:
    red, blue = version("red", RED), version("blue", BLUE)
    routed = changed(BLUE, routed=RoutedSetInfo("meteora", [], [], []))
    part = Part("red", 1, RED.digest, 0.5)
    require_composable([red, blue, version("new", None)], "lora")
    for other, message in (
        (version("set", routed), "'set@1' is a routed set"),
        (replace(blue, parts=(part,)), "'blue@1' is a composition itself"),
        (replace(blue, info=RED), "'red@1' and 'blue@1' have the same content"),
        (red, "'red@1' is named twice"),
    ):
        with pytest.raises(MotetError, match=message) as caught:
            require_composable([red, other], "lora")
        assert (caught.value.code, caught.value.param) == ("invalid_value", "lora")
    unread = version("new", None)
    with pytest.raises(MotetError, match="named twice"):
        require_composable([unread, unread], "lora")


def test_a_composition_is_the_sum_of_its_parts() -> None:
    assert composed_info([(RED, 0.5), (BLUE, -1.0)]) == AdapterInfo(
        composition_digest([WeightedAdapter("b" * 64, -1.0), WeightedAdapter("a" * 64, 0.5)]),
        max_rank=12,
        modules=["q", "v"],
        num_parameters=107,
        num_pages=5,
    )
