"""The events of a streamed response, from the chunks of a streamed chat.

Owns: which events there are, their order and numbers.
Does not know: how chunks come about, nor sockets (`replies.py` sends what is written here).

An item is open from its first piece until the chat goes on to another one: a chat never comes
back to a text or a call that it has left.
"""

from __future__ import annotations

from typing import Any, Protocol

from motet.core.errors import MotetError
from motet.server.errors import error_body
from motet.server.replies import frame
from motet.server.responses.output import (
    ResponseFrame,
    call_item,
    item_status,
    message_item,
    text_part,
)
from motet.server.responses.protocol import ResponsesRequest

Json = dict[str, Any]


class ResponseEvents:
    """The `EventFormat` of one response: it takes a chat's chunks, and keeps what they add up to.

    Args:
        params: what was asked for.
        unique_id: unlike that of any other request.
    """

    def __init__(self, params: ResponsesRequest, unique_id: str) -> None:
        self._frame = ResponseFrame(params, unique_id)
        self._num_events = 0
        self._output: list[Json] = []  # items that are done
        self._open: _OpenItem | None = None
        self._finish_reason: str | None = None
        self._usage: Json | None = None

    def event(self, value: Json) -> bytes:
        """The events that say a `chat.completion.chunk`."""
        events = self._begin()
        for choice in value["choices"]:
            delta = choice["delta"]
            if text := delta.get("content"):
                events += self._text(text)
            for call in delta.get("tool_calls") or []:
                events += self._call(call)
            self._finish_reason = choice["finish_reason"] or self._finish_reason
        self._usage = value.get("usage") or self._usage
        return self._written(events)

    def end(self) -> bytes:
        """The end of the last item and of the response."""
        assert self._usage is not None, "the last chunk of a chat has its usage"
        events = self._begin()
        if self._open is None and not self._output:  # the model had nothing to say
            events += self._open_item(_OpenMessage(self._frame.item_id("msg", 0)))
        events += self._close_item(item_status(self._finish_reason))
        response = self._frame.finished(self._output, self._finish_reason, self._usage)
        events.append({"type": f"response.{response['status']}", "response": response})
        return self._written(events)

    def failure(self, error: MotetError) -> bytes:
        """What went wrong, and then the response with what there is of it."""
        told = error_body(error)["error"]
        events = self._begin()
        open_items = [] if self._open is None else [self._open.as_json("incomplete")]
        response = self._frame.failed([*self._output, *open_items], error)
        fields = {name: told[name] for name in ("code", "message", "param")}
        events.append({"type": "error", **fields})
        events.append({"type": "response.failed", "response": response})
        return self._written(events)

    def _begin(self) -> list[Json]:
        if self._num_events:
            return []
        response = self._frame.begun()
        kinds = ("response.created", "response.in_progress")
        return [{"type": kind, "response": response} for kind in kinds]

    def _text(self, text: str) -> list[Json]:
        events: list[Json] = []
        item = self._open
        if not isinstance(item, _OpenMessage):
            events += self._close_item("completed")
            item = _OpenMessage(self._frame.item_id("msg", len(self._output)))
            events += self._open_item(item)
        return [*events, *self._of_item(item, item.push(text))]

    def _call(self, call: Json) -> list[Json]:
        events: list[Json] = []
        item, function = self._open, call.get("function") or {}
        if not isinstance(item, _OpenCall) or item.chat_index != call["index"]:
            events += self._close_item("completed")
            item_id = self._frame.item_id("fc", len(self._output))
            item = _OpenCall(item_id, call["index"], call["id"], function["name"])
            events += self._open_item(item)
        if pieces := function.get("arguments"):
            events += self._of_item(item, item.push(pieces))
        return events

    def _open_item(self, item: _OpenItem) -> list[Json]:
        self._open = item
        added = {"type": "response.output_item.added", "output_index": len(self._output)}
        return [{**added, "item": item.first_json()}, *self._of_item(item, item.opening())]

    def _close_item(self, status: str) -> list[Json]:
        item = self._open
        if item is None:
            return []
        events = self._of_item(item, item.closing())
        done = item.as_json(status)
        index = len(self._output)
        events.append({"type": "response.output_item.done", "output_index": index, "item": done})
        self._output.append(done)
        self._open = None
        return events

    def _of_item(self, item: _OpenItem, events: list[Json]) -> list[Json]:
        """Events of an open item, with where it is."""
        place = {"item_id": item.item_id, "output_index": len(self._output)}
        return [{**event, **place} for event in events]

    def _written(self, events: list[Json]) -> bytes:
        frames = []
        for event in events:
            numbered = {**event, "sequence_number": self._num_events}
            frames.append(frame(numbered, event["type"]))
            self._num_events += 1
        return b"".join(frames)


class _OpenItem(Protocol):
    """An item of the output that is being written."""

    item_id: str

    def first_json(self) -> Json:
        """The item before there is anything in it."""
        ...

    def opening(self) -> list[Json]:
        """Events before its first piece."""
        ...

    def push(self, piece: str) -> list[Json]:
        """Events that add a piece."""
        ...

    def closing(self) -> list[Json]:
        """Events after its last piece."""
        ...

    def as_json(self, status: str) -> Json:
        """The item with all that it has so far."""
        ...


class _OpenMessage:
    def __init__(self, item_id: str) -> None:
        self.item_id = item_id
        self._pieces: list[str] = []

    def first_json(self) -> Json:
        return message_item(self.item_id, [], "in_progress")

    def opening(self) -> list[Json]:
        part = text_part("")
        return [{"type": "response.content_part.added", "content_index": 0, "part": part}]

    def push(self, piece: str) -> list[Json]:
        self._pieces.append(piece)
        kind = "response.output_text.delta"
        return [{"type": kind, "content_index": 0, "delta": piece, "logprobs": []}]

    def closing(self) -> list[Json]:
        text = "".join(self._pieces)
        kinds = ("response.output_text.done", "response.content_part.done")
        text_done, part_done = ({"type": kind, "content_index": 0} for kind in kinds)
        return [{**text_done, "text": text, "logprobs": []}, {**part_done, "part": text_part(text)}]

    def as_json(self, status: str) -> Json:
        return message_item(self.item_id, [text_part("".join(self._pieces))], status)


class _OpenCall:
    def __init__(self, item_id: str, chat_index: int, call_id: str, name: str) -> None:
        self.item_id = item_id
        self.chat_index = chat_index
        self._call_id = call_id
        self._name = name
        self._pieces: list[str] = []

    def first_json(self) -> Json:
        return self.as_json("in_progress")

    def opening(self) -> list[Json]:
        return []

    def push(self, piece: str) -> list[Json]:
        self._pieces.append(piece)
        return [{"type": "response.function_call_arguments.delta", "delta": piece}]

    def closing(self) -> list[Json]:
        # Some versions of OpenAI's schema require the name here.
        done = {"type": "response.function_call_arguments.done", "name": self._name}
        return [{**done, "arguments": "".join(self._pieces)}]

    def as_json(self, status: str) -> Json:
        arguments = "".join(self._pieces)
        return call_item(self.item_id, self._call_id, self._name, arguments, status)
