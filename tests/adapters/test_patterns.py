"""The linear-time matcher against PEFT's own rule, and against patterns that make `re` hang."""

import re
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from motet.adapters.patterns import first_matches, full_matches
from motet.adapters.peft_targets import module_path
from motet.core.errors import AdapterError
from motet.core.shape import MODULES

PATHS = [module_path(layer, module) for layer in (0, 1, 10) for module in MODULES]
PIECES = ["q", "k_proj", "_proj", "proj", ".", "\\.", ".*", "\\d", "\\d+", "[01]", "[^q]", "|",
          "(", ")", "(?:", "?", "+", "layers", "self_attn", "mlp", "model", "^", "$", "1", "\\w*",
          "{1,2}", "[a-z_]+", "0"]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    tables=st.lists(
        st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map("".join), max_size=3
    )
)
def test_like_peft(tables):
    from peft.utils.other import get_pattern_key

    # What Python cannot compile is refused, which test_refused covers.
    assume(all(compiles(pattern) for pattern in tables))
    patterns = {pattern: index for index, pattern in enumerate(tables)}
    expected = {
        path: patterns[found]
        for path in PATHS
        if (found := get_pattern_key(list(patterns), path)) in patterns
    }
    assert first_matches(patterns, PATHS, "rank_pattern") == expected


@pytest.mark.parametrize("pattern", ["q_proj", "(q)_proj", "self_attn.q_proj", r"self_attn\.q.*"])
def test_the_whole_path_or_its_end_after_a_dot(pattern):
    found = first_matches({pattern: 1}, [*PATHS, "xq_proj", "xself_attn.q"], "rank_pattern")
    assert found == {path: 1 for path in PATHS if path.endswith(".q_proj")}
    assert first_matches({"_proj": 1, "roj*": 1, "[a-z]roj": 1}, PATHS, "rank_pattern") == {}


@pytest.mark.parametrize("patterns", [{"q_proj": 1, ".*": 2}, {"(q|v)_proj": 1, "q_proj": 2}])
def test_the_first_match_wins(patterns):
    found = first_matches(patterns, PATHS, "rank_pattern")
    assert {found[path] for path in PATHS if path.endswith("q_proj")} == {1}


def compiles(pattern: str) -> bool:
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except re.error:
        return False
    # Repeating a position, which Rust refuses or reads differently, is of no use in a pattern.
    return re.search(r"[\^$(|:][+?{]|[+?}][+{]|\*[+*?{]|[+?*}]\?", pattern) is None


@pytest.mark.parametrize(
    "pattern", [r"(\w+\.?)+!", r"(a|a|\w)*(a|a|\w)*!", r"(.*)*(.*)*(.*)*!", r"(((\w*)*)*)*!"]
)
def test_hostile_patterns_take_no_time(pattern):
    began = time.monotonic()
    assert first_matches({pattern: 1}, PATHS, "rank_pattern") == {}
    assert full_matches(pattern, PATHS, "target_modules") == []
    # Not a measurement: `re` would take longer than the universe has lasted.
    assert time.monotonic() - began < 60


def test_many_plain_names():
    paths = [module_path(layer, module) for layer in range(126) for module in MODULES]
    patterns = {path: index for index, path in enumerate(paths)}
    assert first_matches(patterns, paths, "rank_pattern") == patterns


@pytest.mark.parametrize(
    "pattern", ["(", "a{2,1}", r"\1", "(?=a)", "[[a]]", "(?i)a", "a" * 513 + "*"]
)
def test_refused(pattern):
    with pytest.raises(AdapterError, match="alpha_pattern has the pattern"):
        first_matches({pattern: 1}, PATHS, "alpha_pattern")
