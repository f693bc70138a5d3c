"""Constraints to grammars: each takes exactly what its constraint says."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLTokenizer

from motet.engine.grammar import compile_grammar, load_tokenizer
from motet.server.grammar_check import check
from tests.server.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LLTokenizer:
    file = write_tiny_model(tmp_path_factory.mktemp("model")) / "tokenizer.json"
    return load_tokenizer(file, 259, (257, 258))


def takes(tokenizer: LLTokenizer, kind: str, text: str, answer: str) -> bool:
    answered = check(tokenizer, kind, text)
    assert "grammar" in answered, answered
    matcher = compile_grammar(tokenizer, answered["grammar"]).deep_copy()
    token_ids = tokenizer.greedy_tokenize(answer)
    is_taken = matcher.try_consume_tokens(token_ids) == len(token_ids)
    return bool(is_taken and matcher.is_accepting())


# Nothing that JSON could not carry, and no text of the three special tokens.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(choices=st.lists(TEXTS, min_size=1, max_size=5), other=TEXTS)
def test_a_choice_takes_its_strings_and_no_others(
    tokenizer: LLTokenizer, choices: list[str], other: str
) -> None:
    text = json.dumps(choices)
    assert all(takes(tokenizer, "choice", text, each) for each in choices)
    assert takes(tokenizer, "choice", text, other) == (other in choices)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, 3),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"const": 1}}}, 1),
        ({"type": "string", "format": "date"}, "2024-02-29"),
        ({"type": "array", "prefixItems": [{"type": "boolean"}], "items": False}, [True]),
        ({"type": "object", "additionalProperties": {"type": "number"}}, {"é": -1.5e3}),
        ({"type": "string", "pattern": "^a+$"}, "aa"),
    ],
)
def test_schemas_take_their_values(tokenizer: LLTokenizer, schema: Any, value: Any) -> None:
    assert takes(
        tokenizer, "json_schema", json.dumps(schema), json.dumps(value, ensure_ascii=False)
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", '{"oneOf": [{"type": "number"}, {"type": "integer"}]}'),
        ("json_schema", '{"oneOf": [{}, {}], "x-guidance": {"coerce_one_of": true}}'),
        ("json_schema", '{"uniqueItems": true, "x-guidance": {"lenient": true}}'),
        ("json_schema", "false"),
        ("json_schema", "{"),
        ("regex", r"(a)\1"),
        ("grammar", ""),
        ("grammar", "\x00"),
        ("nonsense", "a"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_reason(
    tokenizer: LLTokenizer, kind: str, text: str
) -> None:
    answer = check(tokenizer, kind, text)
    assert set(answer) == {"error"}
    assert answer["error"]


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["json_schema", "regex", "grammar"]), text=st.text(max_size=40))
def test_any_text_is_answered(tokenizer: LLTokenizer, kind: str, text: str) -> None:
    assert len(check(tokenizer, kind, text)) == 1


def test_a_tokenizer_file_is_a_file(tmp_path: Path) -> None:
    """And never a name, which a library might fetch."""
    with pytest.raises(Exception, match=r"tokenizer\.json cannot be used"):
        load_tokenizer(tmp_path / "gpt2", 259, ())
