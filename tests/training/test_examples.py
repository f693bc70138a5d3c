"""The JSONL of examples: what is read, and what is refused with the line at fault."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.core.errors import ConfigError
from motet.training.examples import (
    Example,
    Segment,
    answer_pieces,
    prompt_pieces,
    read_examples,
    text_of,
)
from tests.training.tiny import TASKS, segment, write_examples


def test_examples_are_read_in_order(tmp_path: Path) -> None:
    examples = read_examples(write_examples(tmp_path / "x.jsonl", 2, 1), TASKS)
    assert [len(example.segments) for example in examples] == [1, 1, 1, 1, 2]
    assert examples[1].segments[0] == Segment("lower", "low? W0", "w0")


def test_a_single_question_is_the_message_as_it_is() -> None:
    example = Example((Segment("a", "What?", "That."),))
    assert text_of(prompt_pieces(example)) == "What?"
    assert text_of(answer_pieces(example)) == "That."


def test_a_composite_numbers_questions_and_answers() -> None:
    example = Example((Segment("a", "What?", "That."), Segment("b", "Who?\nYou?", "Me.")))
    assert text_of(prompt_pieces(example)) == "1. What?\n2. Who?\nYou?"
    assert text_of(answer_pieces(example)) == "1. That.\n2. Me."
    assert [piece.task for piece in answer_pieces(example)] == [None, "a", None, "b"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ('{"segments": []}', "0 segments"),
        ('{"segments": [{"task": "upper", "prompt": "x"}]}', "missing required field `answer`"),
        ('{"segments": [{"task": "upper", "prompt": 1, "answer": "x"}]}', "Expected `str`"),
        (json.dumps({"segments": [segment("upper", 0)], "id": 1}), "unknown field `id`"),
        (
            json.dumps({"segments": [{**segment("upper", 0), "task": "x"}]}),
            "No expert is named 'x'",
        ),
        (json.dumps({"segments": [{**segment("upper", 0), "answer": " "}]}), "is empty"),
        (json.dumps({"segments": [segment("upper", i) for i in range(17)]}), "17 segments"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = write_examples(tmp_path / "x.jsonl", 1, 0)
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(ConfigError) as error:
        read_examples(path, TASKS)
    assert "x.jsonl, line 4" in error.value.message
    assert reason in error.value.message


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_examples_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match="holds no examples"):
        read_examples(path, TASKS)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_examples(tmp_path / "x.jsonl", TASKS)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        read_examples(path, TASKS)
