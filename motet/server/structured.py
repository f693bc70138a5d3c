"""Answers that have to be of a form: `response_format` and `structured_outputs`.

Owns: these fields, their caps, and what they come to: at most one `Constraint`.
Does not know: whether a constraint can be compiled (`grammar_service.py`).

The caps are what can be seen without compiling anything. They are checked without recursion, for
the JSON of a request may be nested as deep as its parser allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from motet.server.errors import bad_request

MAX_SCHEMA_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 32  # of JSON; an object in an object takes two
MAX_ENUM_VALUES = 1000
MAX_ALL_ENUM_VALUES = 5000
MAX_REGEX_CHARS = 1 << 10
MAX_CHOICES = 1000
MAX_CHOICES_CHARS = 64 << 10
MAX_GRAMMAR_CHARS = 64 << 10

Kind = Literal["json_schema", "regex", "choice", "grammar"]

_ANY_OBJECT = b'{"type":"object"}'


class JsonSchemaFormat(BaseModel):
    """A schema with a name. It is kept to whether or not it is `strict`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None  # None: any object
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _has_a_schema_if_it_says_so(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "json_schema_unlike_kind",
                "should be there if, and only if, the type is 'json_schema'",
                {"param": "response_format.json_schema"},
            )
        return self


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`: exactly one of its fields."""

    model_config = ConfigDict(strict=True, extra="forbid")

    json_: Annotated[str | dict[str, Any] | None, Field(alias="json")] = None
    regex: Annotated[str, Field(min_length=1, max_length=MAX_REGEX_CHARS)] | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)] | None = None
    grammar: Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)] | None = None
    json_object: Literal[True] | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [self.json_, self.regex, self.choice, self.grammar, self.json_object]
        if sum(each is not None for each in given) != 1:
            raise PydanticCustomError(
                "not_one_constraint",
                "should hold exactly one of 'json', 'regex', 'choice', 'grammar', 'json_object'",
                {"param": "structured_outputs"},
            )
        return self


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer has to be.

    Attributes:
        kind: how to read `text`.
        text: a JSON schema, a regex, a JSON list of strings, or a grammar in Lark or GBNF.
        param: the field that asks for it, for errors.
    """

    kind: Kind
    text: str
    param: str


def constraint_of(
    response_format: ResponseFormat | None, structured_outputs: StructuredOutputs | None
) -> Constraint | None:
    """What a request's answer has to be; None if it is free.

    Raises:
        MotetError: 400; both ask for something, or a cap is exceeded.
    """
    is_formatted = response_format is not None and response_format.type != "text"
    if structured_outputs is None:
        return _of_format(response_format) if response_format and is_formatted else None
    if is_formatted:
        raise bad_request(
            "'structured_outputs' and 'response_format' both constrain the answer; give one.",
            "structured_outputs",
        )
    return _of_structured(structured_outputs)


def schema_constraint(schema: Mapping[str, Any], param: str) -> Constraint:
    """JSON of this schema. Raises MotetError (400) if it exceeds a cap."""
    try:
        text = orjson.dumps(schema)
    except orjson.JSONEncodeError:  # it came from JSON, so it can only be too deep
        raise _too_deep(param) from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise bad_request(
            f"'{param}' has {len(text)} bytes; a schema may have {MAX_SCHEMA_BYTES}.", param
        )
    _check_nesting_and_enums(schema, param)
    return Constraint("json_schema", text.decode(), param)


def _of_format(response_format: ResponseFormat) -> Constraint:
    json_schema = response_format.json_schema
    if json_schema is None or json_schema.schema_ is None:
        return Constraint("json_schema", _ANY_OBJECT.decode(), "response_format")
    return schema_constraint(json_schema.schema_, "response_format.json_schema.schema")


def _of_structured(wanted: StructuredOutputs) -> Constraint:
    if wanted.json_ is not None:
        param = "structured_outputs.json"
        return schema_constraint(_parsed(wanted.json_, param), param)
    if wanted.regex is not None:
        return Constraint("regex", wanted.regex, "structured_outputs.regex")
    if wanted.grammar is not None:
        return Constraint("grammar", wanted.grammar, "structured_outputs.grammar")
    if wanted.choice is not None:
        param = "structured_outputs.choice"
        num_chars = sum(len(each) for each in wanted.choice)
        if num_chars > MAX_CHOICES_CHARS:
            raise bad_request(
                f"'{param}' has {num_chars} characters; all choices together may have "
                f"{MAX_CHOICES_CHARS}.",
                param,
            )
        return Constraint("choice", orjson.dumps(wanted.choice).decode(), param)
    return Constraint("json_schema", _ANY_OBJECT.decode(), "structured_outputs.json_object")


def _parsed(schema: str | dict[str, Any], param: str) -> dict[str, Any]:
    if isinstance(schema, dict):
        return schema
    try:
        value = orjson.loads(schema)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"'{param}' is a string that is not JSON: {error}.", param) from None
    if not isinstance(value, dict):
        raise bad_request(f"'{param}' should be a JSON schema: an object.", param)
    return value


def _check_nesting_and_enums(schema: Mapping[str, Any], param: str) -> None:
    num_enum_values = 0
    for key, value, depth in _walk(schema):
        if depth > MAX_SCHEMA_DEPTH:
            raise _too_deep(param)
        if key == "enum" and isinstance(value, list):
            num_enum_values += len(value)
            if len(value) > MAX_ENUM_VALUES:
                raise bad_request(
                    f"'{param}' has an enum of {len(value)} values; one may have "
                    f"{MAX_ENUM_VALUES}.",
                    param,
                )
    if num_enum_values > MAX_ALL_ENUM_VALUES:
        raise bad_request(
            f"'{param}' has {num_enum_values} enum values; all enums together may have "
            f"{MAX_ALL_ENUM_VALUES}.",
            param,
        )


def _walk(schema: Mapping[str, Any]) -> Iterator[tuple[str | None, Any, int]]:
    """Every list and object in it: the key that it has (None in a list), itself, how deep it is."""
    pending: list[tuple[str | None, Any, int]] = [(None, schema, 1)]
    while pending:
        key, value, depth = pending.pop()
        yield key, value, depth
        inner = value.items() if isinstance(value, dict) else ((None, each) for each in value)
        pending += [(key, each, depth + 1) for key, each in inner if isinstance(each, dict | list)]


def _too_deep(param: str) -> Exception:
    return bad_request(
        f"'{param}' is nested too deep; a schema's JSON may be nested {MAX_SCHEMA_DEPTH} deep.",
        param,
    )
