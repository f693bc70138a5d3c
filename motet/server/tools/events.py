"""What an answer that may call functions consists of, in the order in which it is written.

Owns: the events of `parser.py`, and putting them together to a whole message.
Does not know: how they were found in the text, nor the JSON around them (`chat_format.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A call of a function. Its arguments follow.

    Attributes:
        index: among the calls of this message, from 0.
        id: what the message with the function's result will refer to.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More text of a call's arguments. All pieces together are a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallBreaks:
    """The call was none: its text ended, or went wrong, within the arguments.

    Attributes:
        text: all of its text, its tag included.
    """

    index: int
    text: str


Event = Content | CallBegins | Arguments | CallBreaks


def joined(events: Iterable[Event]) -> list[Event]:
    """The same with neighbouring pieces of one text as one piece."""
    result: list[Event] = []
    for _, group in groupby(events, key=_text_it_belongs_to):
        first, *others = group
        if isinstance(first, Content | Arguments):
            pieces = (each.text for each in (first, *others) if isinstance(each, type(first)))
            first = replace(first, text="".join(pieces))
        result.append(first)
    return result


def _text_it_belongs_to(event: Event) -> object:
    match event:
        case Content():
            return Content
        case Arguments(index):
            return index
        case _:
            return event


def message(events: Iterable[Event]) -> tuple[str, list[dict[str, Any]]]:
    """The content and the tool calls of a whole message. A call that broke is content."""
    content: list[str] = []
    calls: dict[int, CallBegins] = {}
    arguments: dict[int, list[str]] = {}
    for event in events:
        match event:
            case Content(text):
                content.append(text)
            case CallBegins(index):
                calls[index] = event
                arguments[index] = []
            case Arguments(index, text):
                arguments[index].append(text)
            case CallBreaks(index, text):
                del calls[index]
                content.append(text)
    whole = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": "".join(arguments[call.index])},
        }
        for call in calls.values()
    ]
    return "".join(content), whole
