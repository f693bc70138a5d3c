"""What the document says of one operation.

Owns: the shape of a row in the tables of operations (`operations_*.py`).
Does not know: which rows there are, nor the JSON that they become (`document.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from pydantic import BaseModel

Json = dict[str, Any]


class Access(Enum):
    """Whose key an operation takes."""

    OPEN = "open"
    INFERENCE = "inference"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Body:
    """A body that is a JSON object.

    Attributes:
        model: what it is parsed as.
        idle: further fields that do nothing, each with the values that it may have; None is any.
        optional: fields that the model requires, and that are filled in if they are absent.
        takes_nulls: a field that is null counts as absent, before the model sees it.
        may_be_lenient: `--lenient-params` lets unknown fields pass.
    """

    model: type[BaseModel]
    idle: Mapping[str, tuple[Any, ...] | None]
    optional: frozenset[str] = frozenset()
    takes_nulls: bool = True
    may_be_lenient: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the path, the query or a header."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    schema: Json

    @property
    def is_required(self) -> bool:
        return self.place == "path"


@dataclass(frozen=True, slots=True)
class Answer:
    """A way in which an operation may succeed.

    Attributes:
        json: the type of the JSON in it, if it may be JSON.
        event: the type of the JSON in the events of a stream, if it may be one.
        ends_with_done: the last event of that stream says `[DONE]` instead.
        text: the media type of text, if it may be text.
    """

    description: str
    json: Any = None
    event: Any = None
    ends_with_done: bool = False
    text: str | None = None
    status: int = 200


@dataclass(frozen=True, slots=True)
class Operation:
    """What there is to know of a route.

    Attributes:
        path: in OpenAPI's form.
        id: a name for the functions of generated clients.
        bodies: the body is one of these; none if there is no body.
        is_declared_json: no body is read, but a header has to declare one as JSON all the same.
        errors: codes of errors, beside those that every operation may give.
        headers: names of headers that its answers may have, beside those of every answer.
    """

    method: str
    path: str
    id: str
    summary: str
    tag: str
    answers: tuple[Answer, ...]
    errors: tuple[str, ...] = ()
    access: Access = Access.INFERENCE
    bodies: tuple[Body, ...] = ()
    is_declared_json: bool = False
    parameters: tuple[Parameter, ...] = ()
    headers: tuple[str, ...] = ()
