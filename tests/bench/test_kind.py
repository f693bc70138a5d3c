"""Parameters are read from values and from strings, and refused in words that help."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.bench.named import WORKLOADS, make_workload


def test_strings_are_read_as_what_they_spell() -> None:
    by_strings = make_workload(
        "slora",
        {
            "num_adapters": "12",
            "alpha": "0.3",
            "cv": "2",
            "swap_alpha_cv": "true",
            "prompt_tokens": "4, 9",
            "setting": "S4",
        },
        5,
    )
    by_values = make_workload(
        "slora",
        {
            "num_adapters": 12,
            "alpha": 0.3,
            "cv": 2.0,
            "swap_alpha_cv": True,
            "prompt_tokens": (4, 9),
            "setting": "S4",
        },
        5,
    )
    assert by_strings == by_values


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("zipf", {"num_adaptors": 3}, "zipf has no parameter num_adaptors; it has .*num_adapters"),
        ("zipf", {"num_adapters": "many"}, "num_adapters of workload zipf is 'many', expected int"),
        ("zipf", {"num_adapters": 0}, "Expected `int` >= 1"),
        ("zipf", {"num_adapters": 1.5}, "expected int"),
        ("zipf", {"exponent": "nan"}, "exponent of workload zipf is 'nan'"),
        ("zipf", {"rate_per_s": "inf"}, "rate_per_s of workload zipf is 'inf'"),
        ("zipf", {"rate_per_s": -1}, "Expected `float` > 0"),
        ("zipf", {"cv": None}, "cv of workload zipf is None, expected float"),
        ("zipf", {"prompt_tokens": "8"}, "expected int,int"),
        ("zipf", {"prompt_tokens": "8,x"}, "expected int,int"),
        ("zipf", {"prompt_tokens": "0,4"}, "Expected `int` >= 1"),
        ("zipf", {"output_tokens": "8,8"}, "output_tokens is 8,8: expected the second above"),
        ("zipf", {"rank_cycle": ""}, "rank_cycle of workload zipf"),
        ("zipf", {"rate_per_s": 0.1, "duration_s": 5}, "make 0 requests"),
        ("zipf", {"rate_per_s": 1e6, "duration_s": 1e6}, "make 1,000,000,000,000 requests"),
        ("slora", {"setting": "S9"}, r"expected S1\|S2\|S3\|S4\|S5\|S6"),
        ("slora", {"cv": 0, "swap_alpha_cv": True}, "cv is 0: with swap_alpha_cv"),
        ("zipf", {"length_scale": 100, "prompt_tokens": "8,20000"}, "up to 2,000,000 tokens"),
        ("replay", {}, "replay needs a value for path"),
        ("tenants", {"tenants": "a,b,c"}, "rates_per_s has 2 values: .* 3 tenants"),
        ("tenants", {"tenants": "a,a"}, "tenants are a, a: expected each once"),
        ("tenants", {"tenants": "a/b,c"}, "tenants of workload tenants"),
        ("tenants", {"weights": "1,2,3"}, "weights has 3 values"),
        ("conversations", {"max_prompt_tokens": 99}, "max_prompt_tokens is 99: .* at least 574"),
        ("conversations", {"turns": "1,1000", "rate_per_s": 1000}, "make .* requests"),
    ],
)
def test_what_is_wrong_is_said(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_workload(name, parameters, 1)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="expected a number from 0 to"):
        make_workload("zipf", {}, seed)


@settings(max_examples=60)
@given(
    name=st.sampled_from(["zipf", "slora", "tenants", "conversations", "punica-skewed"]),
    values=st.dictionaries(
        st.text(max_size=12), st.one_of(st.text(max_size=6), st.integers(), st.none())
    ),
    data=st.data(),
)
def test_whatever_is_given_is_read_or_refused_as_a_wrong_value(
    name: str, values: dict[str, Any], data: st.DataObject
) -> None:
    known = data.draw(st.sampled_from(sorted(WORKLOADS[name].parameters)))
    given_value = data.draw(st.one_of(st.text(max_size=8), st.floats(), st.lists(st.integers())))
    refusal = None
    try:
        WORKLOADS[name].spec({**values, known: given_value})
    except ValueError as error:
        refusal = str(error)
    assert refusal is None or name in refusal
