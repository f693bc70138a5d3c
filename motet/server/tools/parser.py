"""Finding function calls in text that arrives in pieces.

Owns: turning an answer's text into events, and giving back as content what was no call.
Does not know: where in a text a call may begin (each form's gate), nor JSON (`call_reader.py`).

The events do not depend on how the text was cut. The time is linear in the text's length.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from functools import partial
from typing import NamedTuple, Protocol

from motet.server.tools.call_reader import CallReader, CallState
from motet.server.tools.events import Arguments, CallBegins, CallBreaks, Content, Event, joined


class Passage(NamedTuple):
    """What a gate makes of a character.

    Attributes:
        content: text that is certain to be content.
        opening: if a call begins here, the text that announced it; it is content after all if
            the call turns out to be none.
        call: the beginning of the call's object, where that is how it showed.
    """

    content: str = ""
    opening: str | None = None
    call: str = ""


class Gate(Protocol):
    """Decides where calls begin in the text outside of calls. One for each answer."""

    def push(self, char: str) -> Passage:
        """Take one character. What may announce a call is held back until it is decided."""
        ...

    def pass_plain(self, text: str, begin: int) -> int:
        """Take the characters from `begin` on that are content at once; where they end.

        For speed alone: `push` would give them back one by one.
        """
        ...

    def resume(self, *, after_call: bool) -> None:
        """Go on behind a call, or behind what had looked like one."""
        ...

    def flush(self) -> str:
        """What is held back and is content, once no more text comes."""
        ...


class CallParser:
    """The events of one answer.

    Args:
        names: of the functions that may be called.
        arguments_keys: what a call's arguments may be called.
        is_parallel: there may be several calls; otherwise what follows the first is content.

    Attributes:
        has_calls: a call has been completed.
    """

    def __init__(
        self,
        gate: Gate,
        names: Collection[str],
        arguments_keys: Collection[str],
        *,
        is_parallel: bool,
    ) -> None:
        self._gate = gate
        self._new_reader = partial(CallReader, names, arguments_keys)
        self._is_parallel = is_parallel
        self._call: _OpenCall | None = None
        self._num_calls = 0
        self.has_calls = False

    def push(self, text: str) -> list[Event]:
        """What a piece of text adds."""
        return joined(self._events_of(text))

    def finish(self) -> list[Event]:
        """What was held back, once no more text comes."""
        events = [] if self._call is None else self._give_up(self._call)
        rest = self._gate.flush()
        return joined([*events, Content(rest)] if rest else events)

    def _events_of(self, text: str) -> Iterator[Event]:
        position = 0
        while position < len(text):
            end = position if self._call else self._gate.pass_plain(text, position)
            if end == position:
                yield from self._push(text[position])
                end += 1
            else:
                yield Content(text[position:end])
            position = end

    def _push(self, char: str) -> Iterator[Event]:
        if self._call is not None:
            yield from self._push_to_call(self._call, char)
            return
        content, opening, begun = self._gate.push(char)
        if content:
            yield Content(content)
        if opening is None:
            return
        if self._is_parallel or not self.has_calls:
            self._call = _OpenCall(self._new_reader(), opening)
            for each in begun:
                yield from self._push_to_call(self._call, each)
        else:
            self._gate.resume(after_call=False)
            yield Content(opening + begun)

    def _push_to_call(self, call: _OpenCall, char: str) -> Iterator[Event]:
        call.reader.push(char)
        if call.reader.state is CallState.BROKEN:
            yield from self._give_up(call)
            # The character that does not belong to this call may begin another.
            yield from self._push(char)
            return
        call.text.append(char)
        if arguments := call.reader.take_arguments():
            if call.index is None:
                assert call.reader.name is not None
                call.index = self._num_calls
                self._num_calls += 1
                yield CallBegins(call.index, _new_id(), call.reader.name)
            yield Arguments(call.index, arguments)
        if call.reader.state is CallState.COMPLETE:
            self._complete()

    def _complete(self) -> None:
        self.has_calls = True
        self._call = None
        self._gate.resume(after_call=True)

    def _give_up(self, call: _OpenCall) -> list[Event]:
        """Read no more of this call, of which some may lack."""
        if call.reader.is_whole:
            self._complete()
            return []
        self._call = None
        self._gate.resume(after_call=False)
        text = "".join(call.text)
        return [Content(text) if call.index is None else CallBreaks(call.index, text)]


class _OpenCall:
    """A call that is being read. `index` is set once the client has been told of it."""

    def __init__(self, reader: CallReader, opening: str) -> None:
        self.reader = reader
        self.text = [opening]
        self.index: int | None = None


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
