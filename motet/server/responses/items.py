"""The items of a response's input: what they may hold, and what becomes of them in a chat.

Owns: the pydantic models of input items, and their translation into chat messages.
Does not know: the other parameters (`protocol.py`), nor the output.

A conversation is a flat list here: an assistant's text and each of its calls are items of their
own, where a chat has one message with both. Clients send a response's output back as it came,
so items take the fields that this server writes into them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from motet.server.json_schema import nulls_are_absent
from motet.server.protocol import MAX_MESSAGES

Json = dict[str, Any]

_NO_MEDIA = "cannot be read: this is a text model"
_NOTHING_STORED = "refers to something stored, and this server stores nothing: send it whole"
_ITEM_REFUSALS = {"item_reference": _NOTHING_STORED}
_PART_REFUSALS = {
    "input_image": _NO_MEDIA,
    "input_file": _NO_MEDIA,
    "input_audio": _NO_MEDIA,
    "refusal": "has no place in a prompt: leave it out",
}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra=nulls_are_absent)


class InputText(_Part):
    """Text from outside the model."""

    type: Literal["input_text"]
    text: str


class OutputText(_Part):
    """Text that the model wrote."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] | None = None


def _normalized_parts(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


def _known_kind(kinds: Sequence[str], refusals: Mapping[str, str], what: str) -> Any:
    """A validator that lets only these kinds pass, and says why for those it knows."""

    def check(value: Any) -> Any:
        kind = _kind_of(value)
        if kind in kinds:
            return _without_nulls(value)
        if kind is not None and kind in refusals:
            raise PydanticCustomError("kind_refused", f"of type '{kind}' {refusals[kind]}")
        raise PydanticCustomError(
            "kind_unknown", f"should be {what} with one of the types {', '.join(kinds)}"
        )

    return BeforeValidator(check)


def _kind_of(value: Any) -> str | None:
    """The type of an item or part; a message may leave it out."""
    if not isinstance(value, Mapping):
        return None
    kind = value.get("type")
    if kind is None and "role" in value:
        return "message"
    return kind if isinstance(kind, str) else None


def _without_nulls(value: Mapping[str, Any]) -> Json:
    return {name: item for name, item in value.items() if item is not None}


# Tags with brackets are left out of the places that errors name.
Part = Annotated[
    Annotated[InputText, Tag("[input_text]")] | Annotated[OutputText, Tag("[output_text]")],
    Discriminator(lambda value: f"[{_kind_of(value)}]"),
    _known_kind(("input_text", "output_text"), _PART_REFUSALS, "a part"),
]
_SeveralParts = Annotated[list[Part], Field(min_length=1, max_length=MAX_MESSAGES)]
Parts = Annotated[
    _SeveralParts,
    BeforeValidator(_normalized_parts, json_schema_input_type=str | _SeveralParts),
]
Status = Literal["in_progress", "completed", "incomplete"]


class _Item(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra=nulls_are_absent)

    id: str | None = None
    status: Status | None = None


class MessageItem(_Item):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Parts
    phase: str | None = None


class CallItem(_Item):
    """A call of a function, which the model asked for."""

    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    name: str
    arguments: str


class CallOutputItem(_Item):
    """What the function answered."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    output: Parts


class ReasoningItem(BaseModel):
    """What another model thought; it says nothing to this one, and is dropped."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["reasoning"]


InputItem = Annotated[
    Annotated[MessageItem, Tag("[message]")]
    | Annotated[CallItem, Tag("[function_call]")]
    | Annotated[CallOutputItem, Tag("[function_call_output]")]
    | Annotated[ReasoningItem, Tag("[reasoning]")],
    Discriminator(lambda value: f"[{_kind_of(value)}]"),
    _known_kind(
        ("message", "function_call", "function_call_output", "reasoning"),
        _ITEM_REFUSALS,
        "an item",
    ),
]


def normalized_input(value: Any) -> Any:
    """A text is short for one message of the user's."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def chat_messages(instructions: str | None, items: Sequence[InputItem]) -> list[Json]:
    """The messages of the chat that the items tell.

    Calls join the assistant's message before them, for in a chat they are parts of it.
    """
    messages: list[Json] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    for item in items:
        match item:
            case MessageItem():
                messages.append({"role": item.role, "content": _chat_content(item.content)})
            case CallItem():
                _calling_message(messages)["tool_calls"].append(_chat_call(item))
            case CallOutputItem():
                answer = {"role": "tool", "tool_call_id": item.call_id}
                messages.append({**answer, "content": _chat_content(item.output)})
            case ReasoningItem():
                pass
    return messages


def _calling_message(messages: list[Json]) -> Json:
    """The message that the next call belongs to: the last one, or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", [])
    return messages[-1]


def _chat_call(item: CallItem) -> Json:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _chat_content(parts: Sequence[InputText | OutputText]) -> str | list[Json]:
    if len(parts) == 1:
        return parts[0].text
    return [{"type": "text", "text": part.text} for part in parts]
