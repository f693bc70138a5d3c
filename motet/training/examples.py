"""What a router learns from: questions whose task, that is whose expert, is known.

Owns: the JSONL format of training and held-out data, and how several questions become one prompt.
Does not know: tokens, models, files of adapters.

A line is one example:

    {"segments": [{"task": "iso-dates", "prompt": "...", "answer": "..."}, ...]}

`task` is the name of an expert. One segment is an ordinary request: its prompt is the user's
message, its answer the reply. Several are asked in one message, numbered, and answered in one
reply, a line for each with the number before it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from motet.core.errors import ConfigError

MAX_SEGMENTS = 16

_EXPECTED = '{"segments": [{"task": "...", "prompt": "...", "answer": "..."}]}'


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question of a known task, and the whole answer that is expected."""

    task: str
    prompt: str
    answer: str


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One exchange: the questions of a message, in order."""

    segments: tuple[Segment, ...]

    @property
    def is_composite(self) -> bool:
        return len(self.segments) > 1


class Piece(msgspec.Struct, frozen=True):
    """A part of a text, and the task that it belongs to; None belongs to none."""

    text: str
    task: str | None


def read_examples(path: Path, tasks: Collection[str]) -> list[Example]:
    """Read a JSONL file; blank lines are passed over.

    Args:
        tasks: the tasks that there are experts for.

    Raises:
        ConfigError: the file cannot be read, a line is not an example or of a task without an
            expert, or there is none. The message names file and line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    examples = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                examples.append(_example(line, tasks))
            except ConfigError as error:
                raise ConfigError(f"{path.name}, line {number}: {error.message}") from error
    if not examples:
        raise ConfigError(f"{path.name} holds no examples. Expected one JSON object in a line.")
    return examples


def _example(line: bytes, tasks: Collection[str]) -> Example:
    try:
        example = msgspec.json.decode(line, type=Example)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{error}. Expected {_EXPECTED}.") from error
    if not 1 <= len(example.segments) <= MAX_SEGMENTS:
        raise ConfigError(
            f"There are {len(example.segments)} segments; expected 1 to {MAX_SEGMENTS}."
        )
    for segment in example.segments:
        if segment.task not in tasks:
            raise ConfigError(
                f"No expert is named {segment.task!r}. A task is named like its expert: "
                f"{', '.join(sorted(tasks))}."
            )
        if not segment.prompt.strip() or not segment.answer.strip():
            raise ConfigError("A prompt or an answer is empty. Fill it in, or leave the line out.")
    return example


def prompt_pieces(example: Example) -> list[Piece]:
    """The user's message."""
    return _pieces(example, [segment.prompt for segment in example.segments])


def answer_pieces(example: Example) -> list[Piece]:
    """The reply, without the end of turn."""
    return _pieces(example, [segment.answer for segment in example.segments])


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _pieces(example: Example, texts: list[str]) -> list[Piece]:
    if not example.is_composite:
        return [Piece(texts[0], example.segments[0].task)]
    pieces = []
    for number, (segment, text) in enumerate(zip(example.segments, texts, strict=True), start=1):
        pieces.append(Piece(f"{number}. " if number == 1 else f"\n{number}. ", None))
        pieces.append(Piece(text, segment.task))
    return pieces
