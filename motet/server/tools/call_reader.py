"""One function call as a model writes it: a JSON object with a name and arguments.

Owns: which objects are calls.
Does not know: what stands around a call (`parser.py`), nor the schema of its arguments.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto

import orjson

from motet.server.tools.object_scanner import Mark, ObjectScanner


class CallState(Enum):
    """How far a call has come."""

    OPEN = auto()
    COMPLETE = auto()
    BROKEN = auto()


class CallReader:
    """Reads `{"name": "f", "arguments": {…}}` character by character.

    The members may come in any order, and others beside them are passed over. The name has to be
    that of a function that was offered, so that an answer in JSON is not taken for a call.

    Args:
        names: the functions that were offered.
        arguments_keys: what the arguments may be called.

    Attributes:
        name: the function, once it is known.
        state: after anything but OPEN, nothing more may be pushed.
        has_arguments: all of the arguments have come.
    """

    def __init__(self, names: Collection[str], arguments_keys: Collection[str]) -> None:
        self._names = names
        self._arguments_keys = arguments_keys
        self._scanner = ObjectScanner()
        self._member: list[str] = []  # the text of the current key or value
        self._key = ""
        self._is_in_arguments = False
        self._new_arguments: list[str] = []
        self.name: str | None = None
        self.state = CallState.OPEN
        self.has_arguments = False

    @property
    def is_whole(self) -> bool:
        """Whether all that makes a call has come, even if its object has not ended."""
        return self.name is not None and self.has_arguments

    def push(self, char: str) -> None:
        """Take one character."""
        mark = self._scanner.push(char)
        if mark in (Mark.KEY_BEGINS, Mark.VALUE_BEGINS):
            self._member = []
        self._member.append(char)
        match mark:
            case Mark.KEY_ENDS:
                self._key = _string_value(self._member) or ""
            case Mark.VALUE_BEGINS if self._key in self._arguments_keys:
                self._begin_arguments(char)
            case Mark.OBJECT_ENDS:
                self.state = CallState.COMPLETE if self.is_whole else CallState.BROKEN
            case Mark.BROKEN:
                self.state = CallState.BROKEN
        if self._is_in_arguments:
            self._new_arguments.append(char)
        if mark is Mark.VALUE_ENDS:
            self._end_value()

    def take_arguments(self) -> str:
        """The text of the arguments that has come since the last time, once the name is known."""
        if self.name is None or not self._new_arguments:
            return ""
        text = "".join(self._new_arguments)
        self._new_arguments = []
        return text

    def _begin_arguments(self, char: str) -> None:
        if char != "{" or self.has_arguments:
            self.state = CallState.BROKEN
        else:
            self._is_in_arguments = True

    def _end_value(self) -> None:
        if self._is_in_arguments:
            self._is_in_arguments = False
            self.has_arguments = True
        if self._key != "name":
            return
        name = _string_value(self._member)
        if name not in self._names or self.name is not None:
            self.state = CallState.BROKEN
        self.name = name


def _string_value(text: list[str]) -> str | None:
    """The string that JSON text stands for; None if it is none (half a surrogate pair is not)."""
    try:
        value = orjson.loads("".join(text))
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None
