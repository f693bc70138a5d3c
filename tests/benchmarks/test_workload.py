"""The mix asks each model as often as its weight says, with that model's prompts."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.workload import EXAMPLES_DIR, load_prompts, make_mix, parse_weights


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    content = {
        name: [{"prompt": prompt, "answer": "x"} for prompt in prompts]
        for name, prompts in {"dates": ["d1", "d2"], "sql": ["s1"]}.items()
    }
    (tmp_path / "prompts.json").write_text(json.dumps(content))
    return tmp_path


def test_models_are_drawn_by_weight_with_their_own_prompts(examples: Path) -> None:
    mix = make_mix(["base", "dates", "sql"], {"dates": 3, "base": 1}, examples)
    rng = random.Random(5)
    draws = [mix.draw(rng) for _ in range(4000)]
    counts = Counter(name for name, _ in draws)
    assert set(counts) == {"dates", "base"}
    assert 0.72 < counts["dates"] / len(draws) < 0.78
    assert {prompt for name, prompt in draws if name == "dates"} == {"d1", "d2"}
    # The base has no prompts of its own, so it is asked those of all adapters.
    assert {prompt for name, prompt in draws if name == "base"} == {"d1", "d2", "s1"}


def test_without_weights_every_served_model_is_asked(examples: Path) -> None:
    mix = make_mix(["base", "sql"], {}, examples)
    assert mix.weights == {"base": 1.0, "sql": 1.0}


def test_the_example_adapters_have_prompts() -> None:
    prompts = load_prompts(EXAMPLES_DIR)
    adapters = {path.parent.name for path in EXAMPLES_DIR.glob("*/adapter_config.json")}
    assert adapters
    assert adapters <= prompts.keys()
    assert all(prompts[name] for name in adapters)


def test_there_are_prompts_without_examples(tmp_path: Path) -> None:
    name, prompt = make_mix(["base"], {}, tmp_path).draw(random.Random(0))
    assert name == "base"
    assert prompt


def test_a_model_that_is_not_served_is_named(examples: Path) -> None:
    with pytest.raises(ValueError, match=r"no model nope; it has base, sql"):
        make_mix(["sql", "base"], {"nope": 1}, examples)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_are_positive_numbers(weight: float, examples: Path) -> None:
    with pytest.raises(ValueError, match="positive"):
        make_mix(["base"], {"base": weight}, examples)


def test_weights_are_read() -> None:
    assert parse_weights("") == {}
    assert parse_weights("a=2, b:c=0.5,") == {"a": 2.0, "b:c": 0.5}


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=x", "a=1,a=2"])
def test_a_mix_that_cannot_be_read_says_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="name=weight"):
        parse_weights(text)
