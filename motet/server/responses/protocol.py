"""POST /v1/responses: the request's fields, and the chat that it stands for.

Owns: the strict pydantic model of the request, and its translation into a chat's body.
Does not know: input items (`items.py`), what is refused (`parameters.py`),
and what a chat does with its own fields, which it checks once more.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from motet.server.field_types import ModelName, PartWeights
from motet.server.json_schema import nulls_are_absent
from motet.server.protocol import MAX_MESSAGES, require_stream
from motet.server.responses.items import InputItem, chat_messages, normalized_input

Json = dict[str, Any]

MAX_METADATA = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512


def _without_nulls(value: Json) -> Json:
    return {name: item for name, item in value.items() if item is not None}


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, json_schema_extra=nulls_are_absent
    )

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_absent(cls, value: Any) -> Any:
        return _without_nulls(value) if isinstance(value, dict) else value


def _function_only(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") != "function":
        raise PydanticCustomError(
            "tool_kind",
            "should be of type 'function': this server has no built-in tools, and calls none",
        )
    return value


class FunctionTool(_Strict):
    """A function that the client offers to call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None

    def as_chat(self) -> Json:
        """The nested form of a chat's tools."""
        function = self.as_json()
        del function["type"]
        return {"type": "function", "function": _without_nulls(function)}

    def as_json(self) -> Json:
        """As a response repeats it: all keys are there."""
        # Not pydantic's dump, which goes down into schemas however deep they are.
        return {
            "type": self.type,
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": self.strict,
        }


class NamedFunction(_Strict):
    """The one function that has to be called."""

    type: Literal["function"]
    name: str


# Tags with brackets are left out of the places that errors name.
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("[mode]")]
    | Annotated[NamedFunction, Tag("[function]")],
    Discriminator(lambda value: "[mode]" if isinstance(value, str) else "[function]"),
    BeforeValidator(_function_only),
]


class TextFormat(_Strict):
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: Annotated[Json | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _schema_is_there_if_meant(self) -> Self:
        schema_fields = {"name", "schema_"}
        given = schema_fields & self.model_fields_set
        if self.type == "json_schema" and given != schema_fields:
            raise PydanticCustomError(
                "schema_missing", "of type 'json_schema' needs name and schema"
            )
        if self.type != "json_schema" and self.model_fields_set - {"type"}:
            raise PydanticCustomError(
                "schema_unused", f"of type '{self.type}' takes no other fields"
            )
        return self

    def as_chat(self) -> Json | None:
        """A chat's `response_format`; None is free text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": "json_object"}
        described = self.as_json()
        del described["type"]
        return {"type": "json_schema", "json_schema": described}

    def as_json(self) -> Json:
        """As a response repeats it."""
        return _without_nulls(
            {
                "type": self.type,
                "name": self.name,
                "description": self.description,
                "schema": self.schema_,
                "strict": self.strict,
            }
        )


class TextOptions(_Strict):
    """Of the text of the answer."""

    format: TextFormat = TextFormat()
    verbosity: Literal["low", "medium", "high"] | None = None  # the model knows no such thing


class Reasoning(_Strict):
    """Accepted where it asks for no reasoning: a model that does not reason has none to show."""

    effort: Literal["none"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseStreamOptions(_Strict):
    """Nothing in it changes a stream."""

    include_obfuscation: bool = False  # padding against traffic analysis; none is added


InputItems = Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES)]


class ResponsesRequest(_Strict):
    """POST /v1/responses. Bounds of what a chat takes as well are checked there."""

    model: ModelName
    lora: PartWeights | None = None
    input: Annotated[
        InputItems,
        BeforeValidator(normalized_input, json_schema_input_type=str | InputItems),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    text: TextOptions = TextOptions()
    reasoning: Reasoning = Reasoning()
    tools: list[Annotated[FunctionTool, BeforeValidator(_function_only)]] = []
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    metadata: Annotated[
        dict[
            Annotated[str, Field(max_length=MAX_METADATA_KEY_CHARS)],
            Annotated[str, Field(max_length=MAX_METADATA_VALUE_CHARS)],
        ],
        Field(max_length=MAX_METADATA),
    ] = {}
    user: str | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None:
            require_stream(self.stream)
        return self

    @model_validator(mode="after")
    def _a_call_needs_tools(self) -> Self:
        if not self.tools and self.tool_choice not in ("none", "auto"):
            raise PydanticCustomError(
                "tool_choice_without_tools",
                "asks for a call, but there are no 'tools'",
                {"param": "tool_choice"},
            )
        return self

    def as_chat(self) -> Json:
        """The body of the chat that gives this response."""
        body: Json = {
            "model": self.model,
            "lora": self.lora,
            "messages": chat_messages(self.instructions, self.input),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_completion_tokens": self.max_output_tokens,
            "response_format": self.text.format.as_chat(),
            "user": self.user,
        }
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.tools:
            body |= {
                "tools": [tool.as_chat() for tool in self.tools],
                "tool_choice": _chat_choice(self.tool_choice),
                "parallel_tool_calls": self.parallel_tool_calls,
            }
        return _without_nulls(body)


def _chat_choice(choice: str | NamedFunction) -> str | Json:
    if isinstance(choice, str):
        return choice
    return {"type": "function", "function": {"name": choice.name}}
