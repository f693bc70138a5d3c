"""Chat answers with function calls, whole and streamed.

Owns: the JSON of calls in OpenAI's messages and deltas, and when an answer ended with calls.
Does not know: how calls are found in the text (`parser.py`), nor the rest of an answer
(`chat.py`), which it changes only where there are calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from motet.server.answer import AnswerFormat
from motet.server.choice import Delta
from motet.server.tools.events import Arguments, CallBegins, CallBreaks, Content, Event, message
from motet.server.tools.forms import ToolForm
from motet.server.tools.parser import CallParser
from motet.server.tools.use import ToolUse

Json = dict[str, Any]


class ToolChatFormat:
    """`plain`, with the calls of `use` taken out of the text."""

    def __init__(self, plain: AnswerFormat, form: ToolForm, use: ToolUse) -> None:
        self._plain = plain
        self._new_parser = partial(form.parser, use.names, is_parallel=use.is_parallel)
        self._parsers: defaultdict[int, CallParser]  # of streamed choices, by index
        self._parsers = defaultdict(self._new_parser)
        self.id_prefix = plain.id_prefix
        self.whole_object = plain.whole_object
        self.chunk_object = plain.chunk_object

    def whole_choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        choice = self._plain.whole_choice(index, deltas)
        parser = self._new_parser()
        text = choice["message"]["content"]
        content, calls = message([*parser.push(text), *parser.finish()])
        if not calls:
            return choice
        said = {**choice["message"], "content": content or None, "tool_calls": calls}
        reason = _finish_reason(choice["finish_reason"], parser)
        return {**choice, "message": said, "finish_reason": reason}

    def whole_fields(self, deltas: Sequence[Delta]) -> Json:
        return self._plain.whole_fields(deltas)

    def first_chunk_fields(self) -> Json:
        return self._plain.first_chunk_fields()

    def first_chunk_choices(self, num_choices: int) -> list[Json]:
        return self._plain.first_chunk_choices(num_choices)

    def chunk_choices(self, delta: Delta) -> list[Json]:
        parser = self._parsers[delta.choice]
        chunks = []
        for plain in self._plain.chunk_choices(delta):
            events = parser.push(plain["delta"].get("content") or "")
            if plain["finish_reason"] is None:
                chunks += _chunks(plain, _deltas(events))
                continue
            events += parser.finish()
            chunks += [_bare_chunk(plain, each) for each in _deltas(events)]
            reason = _finish_reason(plain["finish_reason"], parser)
            chunks.append({**plain, "delta": {}, "finish_reason": reason})
        return chunks


def _chunks(plain: Json, deltas: Sequence[Json]) -> list[Json]:
    """What else `plain` says of its tokens, such as log probabilities, is said once."""
    if not deltas:
        held = {**plain, "delta": {}}  # its text is held back, but its tokens have come
        return [] if held == _bare_chunk(plain, {}) else [held]
    first, *others = deltas
    return [{**plain, "delta": first}, *(_bare_chunk(plain, each) for each in others)]


def _bare_chunk(plain: Json, delta: Json) -> Json:
    return {"index": plain["index"], "delta": delta, "logprobs": None, "finish_reason": None}


def _deltas(events: Sequence[Event]) -> list[Json]:
    return [delta for delta in map(_delta, events) if delta is not None]


def _delta(event: Event) -> Json | None:
    match event:
        case Content(text):
            return {"content": text}
        case CallBegins(index, call_id, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": call_id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case Arguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
        case CallBreaks():
            # What the client has of it cannot be taken back; its arguments are no JSON.
            return None


def _finish_reason(reason: str | None, parser: CallParser) -> str | None:
    """A whole call is why the answer ended, unless it ended for want of room."""
    return "tool_calls" if reason == "stop" and parser.has_calls else reason
