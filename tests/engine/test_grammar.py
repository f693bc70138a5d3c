"""Grammars in the engine: what ends as a whole satisfies its grammar, and nobody else notices."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from motet.core.messages import AbortRequest
from motet.engine import guide
from motet.engine.runner import ModelRunner
from tests.engine.grammar_world import World, json_grammar, write_adapter, write_model

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 200},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
REGEX = "[0-9]{3}-[a-z]{2,4}"
LARK = 'start: greeting " " NAME\ngreeting: "hello" | "bye"\nNAME: /[A-Z][a-z]{1,6}/'


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shared(model_dir: Path) -> Iterator[World]:
    world = World(model_dir)
    yield world
    world.engine.close()


@pytest.fixture(scope="module")
def digests(shared: World, tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    """The base model and two adapters."""
    root = tmp_path_factory.mktemp("adapters")
    return [None, *(shared.load(write_adapter(root / f"a{seed}", seed)) for seed in (1, 2))]


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """The shared engine, which has nothing left over after the test."""
    yield shared
    while shared.engine.step():
        pass
    stats = shared.stats()
    assert stats.num_running == stats.num_waiting == stats.num_pages_kv == 0
    assert stats.num_pages_free + stats.num_pages_cached == stats.num_pages_total


def regex_grammar(regex: str) -> str:
    return str(LLMatcher.grammar_from_regex(regex))


def lark_grammar(lark: str) -> str:
    return str(LLMatcher.grammar_from_lark(lark))


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas whose every value is short enough to be finished by a model that says anything."""
    text = st.text('abc "\\é', max_size=4)
    leaves = st.one_of(
        st.builds(lambda size: {"type": "string", "maxLength": size}, st.integers(0, 4)),
        st.builds(
            lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
            st.integers(-300, 300),
            st.integers(0, 500),
        ),
        st.just({"type": "number", "minimum": 0, "maximum": 5}),
        st.builds(
            lambda values: {"enum": values},
            st.lists(st.one_of(text, st.integers(-9, 9), st.none()), min_size=1, max_size=4),
        ),
        st.builds(lambda value: {"const": value}, text),
        st.just({"type": "boolean"}),
        st.just({"type": ["null", "boolean"]}),
    )
    return st.recursive(leaves, nested_schemas, max_leaves=5)


def nested_schemas(
    inner: st.SearchStrategy[dict[str, Any]],
) -> st.SearchStrategy[dict[str, Any]]:
    names = st.text("abxyz_", min_size=1, max_size=3)
    objects = st.builds(
        lambda properties, num_required: {
            "type": "object",
            "properties": properties,
            "required": list(properties)[:num_required],
            "additionalProperties": False,
        },
        st.dictionaries(names, inner, max_size=3),
        st.integers(0, 3),
    )
    arrays = st.builds(
        lambda items, size: {"type": "array", "items": items, "maxItems": size},
        inner,
        st.integers(0, 3),
    )
    choices = st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=2))
    return st.one_of(objects, arrays, choices)


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schema=schemas(), seed=st.integers(0, 1000))
def test_every_finished_answer_satisfies_its_schema(
    world: World, digests: list[str | None], schema: dict[str, Any], seed: int
) -> None:
    """Greedy and wild, base and adapters, in one batch with free requests."""
    grammar = json_grammar(schema)
    requests = [
        world.request(
            f"{digest}-{temperature}-{is_free}",
            None if is_free else grammar,
            digest=digest,
            temperature=temperature,
            seed=seed,
            max_tokens=24 if is_free else 250,
        )
        for digest in digests
        for temperature in (0.0, 1.5)
        for is_free in (False, True)
    ]
    for name, answer in world.generate(*requests).items():
        assert answer.end in ("stop", "length"), answer
        if name.endswith("False") and answer.end == "stop":
            jsonschema.validate(json.loads(world.text(answer)), schema)


def test_short_schemas_are_finished(world: World, digests: list[str | None]) -> None:
    """Else the test above would have nothing to look at."""
    requests = [
        world.request(f"{i}-{t}", json_grammar(PERSON), digest=digest, temperature=t, seed=i)
        for i, digest in enumerate(digests)
        for t in (0.0, 1.5)
    ]
    for answer in world.generate(*requests).values():
        assert answer.end == "stop"
        jsonschema.validate(json.loads(world.text(answer)), PERSON)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_regex_and_lark_hold_in_one_batch(world: World, temperature: float) -> None:
    answers = world.generate(
        world.request("regex", regex_grammar(REGEX), temperature=temperature),
        world.request("lark", lark_grammar(LARK), temperature=temperature),
        world.request("free", max_tokens=30, temperature=temperature),
    )
    assert re.fullmatch(REGEX, world.text(answers["regex"]))
    assert re.fullmatch("(hello|bye) [A-Z][a-z]{1,6}", world.text(answers["lark"]))
    assert answers["regex"].end == answers["lark"].end == "stop"


def test_an_answer_ends_with_the_last_token_that_its_grammar_allows(world: World) -> None:
    answer = world.generate(world.request("a", regex_grammar("abc")))["a"]
    assert world.text(answer) == "abc"
    assert len(answer.token_ids) == 3, "no end-of-text is waited for"


def test_free_requests_are_bit_for_bit_what_they_are_alone(
    world: World, digests: list[str | None]
) -> None:
    free = [
        world.request(
            f"free{i}",
            prompt="xyz" * (i + 1),
            digest=digest,
            temperature=t,
            seed=i,
            max_tokens=40,
            repetition_penalty=1.2,
        )
        for i, (digest, t) in enumerate((d, t) for d in digests for t in (0.0, 1.0))
    ]
    alone = world.generate(*free)
    grammar = json_grammar(PERSON)
    constrained = [world.request(f"c{i}", grammar, digest=d) for i, d in enumerate(digests)]
    mixed = world.generate(*constrained, *free)
    assert {name: mixed[name] for name in alone} == alone


def test_the_grammar_wins_over_min_tokens_and_ignore_eos(world: World) -> None:
    answer = world.generate(
        world.request("a", regex_grammar("(yes)?"), min_tokens=50, stop_token_ids=())
    )["a"]
    assert answer.end == "stop"
    assert world.text(answer) in ("", "yes")


def test_max_tokens_may_cut_an_answer(world: World) -> None:
    answer = world.generate(world.request("a", json_grammar(PERSON), max_tokens=5))["a"]
    assert answer.end == "length"
    assert len(answer.token_ids) == 5


def test_a_refused_grammar_ends_its_own_request(world: World) -> None:
    answers = world.generate(
        world.request("bad", lark_grammar("start: nothing")),
        world.request("same", lark_grammar("start: nothing")),
        world.request("free", max_tokens=10),
        world.request("good", regex_grammar(REGEX)),
    )
    assert answers["bad"].end == answers["same"].end == "grammar_error"
    assert "nothing" in (answers["bad"].message or "")
    assert answers["free"].end in ("stop", "length")
    assert answers["good"].end == "stop"


def test_a_grammar_that_becomes_too_complex_ends_its_own_request(world: World) -> None:
    """It compiles, and costs too much only some tokens later."""
    answers = world.generate(
        world.request("bomb", regex_grammar("[ab]{3}(c{1000}){1000}"), max_tokens=40),
        world.request("free", max_tokens=30),
        world.request("good", regex_grammar(REGEX)),
    )
    assert answers["bomb"].end == "grammar_error"
    assert "too" in (answers["bomb"].message or "")
    assert answers["free"].end in ("stop", "length")
    assert answers["good"].end == "stop"


def test_no_token_possible_ends_its_own_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guide, "fill_next_token_bitmask", lambda *_: None)
    answers = world.generate(
        world.request("a", regex_grammar(REGEX)), world.request("free", max_tokens=10)
    )
    assert answers["a"].end == "grammar_error"
    assert "no token" in (answers["a"].message or "")
    assert answers["free"].end in ("stop", "length")


def test_a_failed_grammar_is_compiled_anew(world: World) -> None:
    """Copies of a matcher share a lexer: what one has broken must not break the next."""
    bomb = regex_grammar("[ab]{3}(c{1000}){1000}|d")
    assert world.generate(world.request("a", bomb, max_tokens=40))["a"].end == "grammar_error"
    (d,) = world.tokenizer.encode("d").ids
    answer = world.generate(
        world.request("b", bomb, logit_bias=(), prompt="d", max_tokens=1, stop_token_ids=(d,))
    )["b"]
    assert answer.end in ("stop", "length")


def test_a_failure_ends_nobody_else_with_the_same_grammar(world: World) -> None:
    grammar = regex_grammar("[ab]{3}(c{1000}){1000}|d{20}")
    (a,), (c,), (d,) = (world.tokenizer.encode(each).ids for each in "acd")
    answers = world.generate(
        world.request("bomb", grammar, max_tokens=40, logit_bias=((a, 100.0), (c, 100.0))),
        world.request("good", grammar, max_tokens=40, logit_bias=((d, 100.0),)),
    )
    assert answers["bomb"].end == "grammar_error"
    assert answers["good"].end == "stop"
    assert world.text(answers["good"]) == "d" * 20


def test_an_abort_while_the_grammar_is_compiled(world: World) -> None:
    grammar = json_grammar({"enum": [f"value {i}" for i in range(3000)]})
    world.engine.handle(world.request("gone", grammar))
    assert world.stats().num_waiting == 1
    world.engine.handle(AbortRequest("gone"))
    answer = world.generate(world.request("other", grammar, max_tokens=50))["other"]
    assert answer.end in ("stop", "length")


def test_preempted_sequences_go_on_where_they_were(model_dir: Path, world: World) -> None:
    def requests(of: World) -> list[Any]:
        return [
            of.request(
                str(i),
                json_grammar({"type": "array", "items": {"enum": ["aaa", "bbb"]}, "minItems": 20}),
                prompt=chr(97 + i) * 3,
                temperature=0.8,
                seed=i,
                max_tokens=120,
            )
            for i in range(6)
        ]

    short = World(model_dir, pool_memory_bytes=20 * world.ready.page_bytes)
    answers = short.generate(*requests(short))
    assert short.stats().num_preemptions > 0
    assert answers == world.generate(*requests(world))
    short.engine.close()


def test_steps_that_overlap_give_the_same_answers(
    model_dir: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def requests(of: World) -> list[Any]:
        return [
            of.request("c", json_grammar(PERSON), temperature=1.0),
            of.request("late", regex_grammar(REGEX), prompt="z" * 90, temperature=1.0),
            *(of.request(f"free{i}", max_tokens=50, temperature=1.0, seed=i) for i in range(3)),
        ]

    expected = world.generate(*requests(world))
    monkeypatch.setattr(ModelRunner, "overlaps", True)
    overlapped = World(model_dir, max_step_tokens=32)
    assert overlapped.generate(*requests(overlapped)) == expected
    overlapped.engine.close()


def test_a_model_without_a_tokenizer_refuses_grammars(tmp_path: Path) -> None:
    model_dir = write_model(tmp_path / "model")
    world = World(model_dir)
    (model_dir / "tokenizer.json").unlink()
    answers = world.generate(world.request("a", regex_grammar("a")), world.request("b"))
    assert answers["a"].end == "grammar_error"
    assert "tokenizer.json" in (answers["a"].message or "")
    assert answers["b"].end in ("stop", "length")
    world.engine.close()
