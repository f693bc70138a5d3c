"""Questions of known tasks, asked one by one or several in a message, and when they are answered.

Owns: how a line of `examples/routers/held_out.jsonl` becomes a message, and what counts as right.
Does not know: who answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

TOKENS_PER_ANSWER = 48
"""Longer than any answer of the example tasks, and its number."""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question, the adapter that was trained for it, and its only right answer."""

    task: str
    prompt: str
    answer: str


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked at once; several questions are numbered, and answered on numbered lines."""

    segments: tuple[Question, ...]

    @property
    def is_composite(self) -> bool:
        return len(self.segments) > 1

    @property
    def text(self) -> str:
        prompts = [each.prompt for each in self.segments]
        if not self.is_composite:
            return prompts[0]
        return "\n".join(f"{number}. {each}" for number, each in enumerate(prompts, start=1))

    @property
    def max_tokens(self) -> int:
        return TOKENS_PER_ANSWER * len(self.segments)

    def num_right(self, reply: str) -> int:
        """Questions that a reply answers, of which only white space around it is forgiven.

        A single answer is the whole reply. One of several is a whole line; it may lack its number,
        since an adapter that was trained on single questions knows none.
        """
        if not self.is_composite:
            return int(reply.strip() == self.segments[0].answer)
        lines = {line.strip() for line in reply.splitlines()}
        return sum(
            each.answer in lines or f"{number}. {each.answer}" in lines
            for number, each in enumerate(self.segments, start=1)
        )


@dataclass(frozen=True)
class Messages:
    """Held-out messages: `single` ones of one question, and `composite` ones."""

    single: Sequence[Message]
    composite: Sequence[Message]

    @property
    def tasks(self) -> list[str]:
        return sorted({message.segments[0].task for message in self.single})

    def first(self, num_per_task: int, num_composite: int) -> "Messages":
        """A part of them, with every task in it."""
        single = [
            message
            for task in self.tasks
            for message in [m for m in self.single if m.segments[0].task == task][:num_per_task]
        ]
        return Messages(single, self.composite[:num_composite])


def read_messages(path: Path) -> Messages:
    """Read a JSONL file. Raises msgspec.DecodeError where a line is not a message."""
    lines = path.read_bytes().splitlines()
    messages = [msgspec.json.decode(line, type=Message) for line in lines]
    return Messages(
        [message for message in messages if not message.is_composite],
        [message for message in messages if message.is_composite],
    )
