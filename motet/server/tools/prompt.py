"""Telling a model of its tools, and of the calls and results so far.

Owns: the messages as a chat template takes them, and the words for models that were not trained
on tools.
Does not know: requests, nor what a template makes of messages.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from motet.server.tools.forms import native_form
from motet.server.tools.hermes import CLOSE_TAG, OPEN_TAG
from motet.server.tools.json_values import parsed_object
from motet.server.tools.protocol import ToolCall
from motet.server.tools.use import ToolUse, tools_json

Json = dict[str, Any]


class ChatMessage(Protocol):
    """What is read of a request's message."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str | None: ...
    @property
    def name(self) -> str | None: ...
    @property
    def tool_calls(self) -> Sequence[ToolCall] | None: ...
    @property
    def tool_call_id(self) -> str | None: ...


def template_input(
    template: str, messages: Sequence[ChatMessage], use: ToolUse | None
) -> tuple[list[Json], list[Json] | None]:
    """The messages and the tools that a chat template is to be rendered with.

    A template that teaches a known form gets both as transformers passes them. For any other,
    calls and results are text in tags, and what there is to call, and how, is said in the system
    message; it gets no tools.
    """
    form = native_form(template)
    if form is None:
        return _worded_messages(messages, use), None
    native = _native_messages(messages)
    tools = None if use is None else tools_json(use)
    return (_with_one_call_each(native) if form.has_one_call_a_message else native), tools


def _worded_messages(messages: Sequence[ChatMessage], use: ToolUse | None) -> list[Json]:
    worded: list[Json] = []
    is_among_results = False
    for message in messages:
        plain = _worded(message)
        # Results that follow one another are one message: roles often have to alternate.
        if message.role == "tool" and is_among_results:
            worded[-1]["content"] += "\n" + plain["content"]
        else:
            worded.append(plain)
        is_among_results = message.role == "tool"
    return worded if use is None else _with_instructions(worded, _instructions(use))


def _native_messages(messages: Sequence[ChatMessage]) -> list[Json]:
    native: list[Json] = []
    called: dict[str, str] = {}  # the function of each call
    for message in messages:
        parts = _plain(message)
        if message.tool_calls is not None:
            called |= {call.id: call.function.name for call in message.tool_calls}
            parts["tool_calls"] = [_native_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            parts["tool_call_id"] = message.tool_call_id
            # Some templates want to know whose result it is by name.
            if name := called.get(message.tool_call_id):
                parts["name"] = name
        native.append(parts)
    return native


def _with_one_call_each(messages: Sequence[Json]) -> list[Json]:
    """The same with each call in a message of its own, its result behind it."""
    split: list[Json] = []
    rest = deque(messages)
    while rest:
        message = rest.popleft()
        calls = message.get("tool_calls", [])
        if len(calls) < 2:
            split.append(message)
            continue
        results: dict[str, Json] = {}
        while rest and rest[0]["role"] == "tool":
            result = rest.popleft()
            results[result["tool_call_id"]] = result
        for index, call in enumerate(calls):
            content = message["content"] if index == 0 else ""
            split.append({**message, "content": content, "tool_calls": [call]})
            if call["id"] in results:
                split.append(results.pop(call["id"]))
        split.extend(results.values())  # of calls before these
    return split


def _native_call(call: ToolCall) -> Json:
    text = call.function.arguments
    # Templates write arguments as JSON, so they want an object; text that is none is a string.
    arguments = parsed_object(text)
    function = {
        "name": call.function.name,
        "arguments": text if arguments is None else arguments,
    }
    return {"id": call.id, "type": "function", "function": function}


def _worded(message: ChatMessage) -> Json:
    if message.role == "tool":
        result = f"<tool_response>\n{message.content}\n</tool_response>"
        return {"role": "user", "content": result}
    plain = _plain(message)
    calls = [_worded_call(call) for call in message.tool_calls or ()]
    return {**plain, "content": "\n".join([*filter(None, [plain["content"]]), *calls])}


def _worded_call(call: ToolCall) -> str:
    # The arguments stay as they were written, white space and all.
    name, arguments = json.dumps(call.function.name), call.function.arguments
    return f'{OPEN_TAG}\n{{"name": {name}, "arguments": {arguments}}}\n{CLOSE_TAG}'


def _plain(message: ChatMessage) -> Json:
    # "developer" is the newer word for "system"; templates know the older one.
    role = "system" if message.role == "developer" else message.role
    named = {} if message.name is None else {"name": message.name}
    return {"role": role, "content": message.content or "", **named}


def _instructions(use: ToolUse) -> str:
    functions = "\n".join(json.dumps(each, ensure_ascii=False) for each in tools_json(use))
    return (
        "These functions can be called. Each line is one of them, with the JSON schema of its "
        f"arguments:\n{functions}\n"
        "To call a function, write its name and its arguments as JSON between tags, for each "
        f'call anew:\n{OPEN_TAG}\n{{"name": "...", "arguments": {{...}}}}\n{CLOSE_TAG}\n'
        "The results are then given to you."
    )


def _with_instructions(messages: list[Json], instructions: str) -> list[Json]:
    first: Mapping[str, Any] = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": instructions}, *messages]
    return [{**first, "content": f"{first['content']}\n\n{instructions}"}, *messages[1:]]
