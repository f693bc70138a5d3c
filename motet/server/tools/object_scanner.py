"""Following a JSON object character by character, as a model writes it.

Owns: the grammar of JSON (RFC 8259), with a bound on nesting.
Does not know: what the members mean, nor keeps their text (`call_reader.py` does both).
"""

from __future__ import annotations

import re
from enum import Enum, auto

MAX_DEPTH = 64

_SPACE = frozenset(" \t\r\n")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_SCALAR_CHARS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-.")
# Each position of it has one way to go on, so matching takes linear time.
_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class Mark(Enum):
    """What a character is to the outermost object; what is deeper is checked, but not marked."""

    NOTHING = auto()
    KEY_BEGINS = auto()
    KEY_ENDS = auto()  # at its closing quote
    VALUE_BEGINS = auto()
    VALUE_ENDS = auto()  # at its closing quote or bracket; numbers and literals have no mark
    OBJECT_ENDS = auto()  # nothing may follow
    BROKEN = auto()  # this is no JSON object; nothing may follow


class _Expects(Enum):
    OBJECT = auto()
    FIRST_KEY = auto()  # or the end of the object
    KEY = auto()
    COLON = auto()
    FIRST_ITEM = auto()  # or the end of the array
    VALUE = auto()
    COMMA = auto()  # or the end of the object or array


class ObjectScanner:
    """Says of each character what it is. White space may come before the object.

    Each character takes constant time, but for numbers and literals, which take time in
    proportion to their length once they have ended.
    """

    def __init__(self) -> None:
        self._expects = _Expects.OBJECT
        self._open: list[str] = []  # "{" and "[", the innermost last
        self._string: _String | None = None
        self._scalar: list[str] = []

    def push(self, char: str) -> Mark:
        """Take one character."""
        if self._string is not None:
            return self._push_to_string(char, self._string)
        if self._scalar:
            if char in _SCALAR_CHARS:
                self._scalar.append(char)
                return Mark.NOTHING
            is_scalar = _SCALAR.fullmatch("".join(self._scalar)) is not None
            self._scalar = []
            if not is_scalar:
                return Mark.BROKEN
        if char in _SPACE:
            return Mark.NOTHING
        return self._push_structure(char)

    @property
    def _is_outermost(self) -> bool:
        return len(self._open) == 1

    def _push_to_string(self, char: str, string: _String) -> Mark:
        if not string.push(char):
            return Mark.BROKEN
        if not string.is_closed:
            return Mark.NOTHING
        self._string = None
        self._expects = _Expects.COLON if string.is_key else _Expects.COMMA
        if not self._is_outermost:
            return Mark.NOTHING
        return Mark.KEY_ENDS if string.is_key else Mark.VALUE_ENDS

    def _push_structure(self, char: str) -> Mark:
        expects = self._expects
        if char in "}]":
            return self._close(char)
        match expects:
            case _Expects.OBJECT if char == "{":
                return self._open_container(char, Mark.NOTHING)
            case _Expects.FIRST_KEY | _Expects.KEY if char == '"':
                self._string = _String(is_key=True)
                return Mark.KEY_BEGINS if self._is_outermost else Mark.NOTHING
            case _Expects.COLON if char == ":":
                self._expects = _Expects.VALUE
                return Mark.NOTHING
            case _Expects.COMMA if char == ",":
                self._expects = _Expects.KEY if self._open[-1] == "{" else _Expects.VALUE
                return Mark.NOTHING
            case _Expects.VALUE | _Expects.FIRST_ITEM:
                return self._begin_value(char)
            case _:
                return Mark.BROKEN

    def _begin_value(self, char: str) -> Mark:
        mark = Mark.VALUE_BEGINS if self._is_outermost else Mark.NOTHING
        if char in "{[":
            return self._open_container(char, mark)
        if char == '"':
            self._string = _String(is_key=False)
            return mark
        if char in _SCALAR_CHARS:
            self._scalar = [char]
            self._expects = _Expects.COMMA
            return mark
        return Mark.BROKEN

    def _open_container(self, char: str, mark: Mark) -> Mark:
        if len(self._open) == MAX_DEPTH:
            return Mark.BROKEN
        self._open.append(char)
        self._expects = _Expects.FIRST_KEY if char == "{" else _Expects.FIRST_ITEM
        return mark

    def _close(self, char: str) -> Mark:
        closes = "{" if char == "}" else "["
        empty = _Expects.FIRST_KEY if char == "}" else _Expects.FIRST_ITEM
        if self._expects not in (empty, _Expects.COMMA) or self._open[-1] != closes:
            return Mark.BROKEN
        self._open.pop()
        self._expects = _Expects.COMMA
        if not self._open:
            return Mark.OBJECT_ENDS
        return Mark.VALUE_ENDS if self._is_outermost else Mark.NOTHING


class _String:
    """The inside of one JSON string, after its opening quote."""

    def __init__(self, *, is_key: bool) -> None:
        self.is_key = is_key
        self.is_closed = False
        self._is_escaped = False
        self._num_hex_digits_due = 0

    def push(self, char: str) -> bool:
        """Take one character; False if it cannot be in a string."""
        if self._num_hex_digits_due:
            self._num_hex_digits_due -= 1
            return char in _HEX_DIGITS
        if self._is_escaped:
            self._is_escaped = False
            self._num_hex_digits_due = 4 if char == "u" else 0
            return char in '"\\/bfnrtu'
        self._is_escaped = char == "\\"
        self.is_closed = char == '"'
        return char >= " "
