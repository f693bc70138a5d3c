"""The fields of a chat request that concern tools: types and bounds.

Owns: the strict pydantic models of tools, the choice among them, and calls in messages.
Does not know: how a call is written by a model, nor what else is in a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from motet.server.structured import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH
from motet.server.tools.json_values import depth

MAX_TOOLS = 128
MAX_CALLS = 128
MAX_DESCRIPTION_CHARS = 16_384
MAX_ARGUMENTS_CHARS = 1_048_576

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema of an object, of a size that is safe to handle."""
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("no_object_schema", "should be a JSON schema of type 'object'")
    levels = depth(schema)
    if levels > MAX_SCHEMA_DEPTH:
        raise PydanticCustomError(
            "schema_too_deep", f"should be nested at most {MAX_SCHEMA_DEPTH} deep, not {levels}"
        )
    num_bytes = len(orjson.dumps(schema))
    if num_bytes > MAX_SCHEMA_BYTES:
        raise PydanticCustomError(
            "schema_too_large",
            f"should take at most {MAX_SCHEMA_BYTES} bytes of JSON, not {num_bytes}",
        )
    return schema


class ToolFunction(BaseModel):
    """A function that may be called.

    Attributes:
        parameters: the JSON schema of its arguments, an object; None is no arguments.
        strict: a call's arguments have to be valid against the schema, whoever chose to call.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    name: ToolName
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS)] | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_object_schema)] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """One of a request's tools."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["function"]
    function: ToolFunction


def _differently_named(tools: list[Tool]) -> list[Tool]:
    names = [tool.function.name for tool in tools]
    if twice := _first_repeated(names):
        raise PydanticCustomError("same_name", f"should not have two functions named '{twice}'")
    return tools


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


Tools = Annotated[
    list[Tool], Field(min_length=1, max_length=MAX_TOOLS), AfterValidator(_differently_named)
]


class FunctionName(BaseModel):
    """Which of the request's functions."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str


class NamedToolChoice(BaseModel):
    """Call this function."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["function"]
    function: FunctionName


_CHOICES = ("none", "auto", "required")


def _known_choice(value: Any) -> Any:
    """One message for all that is no choice, instead of one for each that it might have been."""
    if value in _CHOICES or isinstance(value, NamedToolChoice):
        return value
    function = value.get("function") if isinstance(value, Mapping) else None
    is_named = isinstance(function, Mapping) and isinstance(function.get("name"), str)
    if is_named and set(value) == {"type", "function"} and value["type"] == "function":
        return value
    raise PydanticCustomError(
        "tool_choice",
        "should be 'none', 'auto', 'required' or "
        '{"type": "function", "function": {"name": "..."}}',
    )


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedToolChoice, BeforeValidator(_known_choice)
]


class CalledFunction(BaseModel):
    """What an assistant called. The arguments are text, as it wrote them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: ToolName
    arguments: Annotated[str, Field(max_length=MAX_ARGUMENTS_CHARS)]


class ToolCall(BaseModel):
    """A call in an assistant's message."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


ToolCalls = Annotated[list[ToolCall], Field(min_length=1, max_length=MAX_CALLS)]


class HasToolFields(Protocol):
    """What is looked at in a message."""

    @property
    def tool_calls(self) -> list[ToolCall] | None: ...

    @property
    def tool_call_id(self) -> str | None: ...


def require_offered(
    choice: Literal["none", "auto", "required"] | NamedToolChoice | None,
    tools: Sequence[Tool] | None,
) -> None:
    """Raises PydanticCustomError if `tool_choice` chooses from what there is not."""
    if choice is None or choice == "none":
        return
    if tools is None:
        raise PydanticCustomError(
            "choice_without_tools",
            "is only allowed together with 'tools'",
            {"param": "tool_choice"},
        )
    if not isinstance(choice, NamedToolChoice):
        return
    name = choice.function.name
    if name not in {tool.function.name for tool in tools}:
        raise PydanticCustomError(
            "unknown_function",
            f"names the function '{name}', which is not among 'tools'",
            {"param": "tool_choice"},
        )


def require_calls_for_results(messages: Sequence[HasToolFields]) -> None:
    """Raises PydanticCustomError if a message has the result of no call before it."""
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        if message.tool_calls is not None:
            ids = [call.id for call in message.tool_calls]
            if twice := _first_repeated(ids):
                raise PydanticCustomError(
                    "same_call_id",
                    f"has two calls with the id {twice!r}",
                    {"param": f"messages[{index}].tool_calls"},
                )
            waiting.update(ids)
        elif message.tool_call_id is not None:
            if message.tool_call_id not in waiting:
                raise PydanticCustomError(
                    "unknown_call",
                    "should be the id of a call in an earlier message that has no result yet",
                    {"param": f"messages[{index}].tool_call_id"},
                )
            waiting.discard(message.tool_call_id)
