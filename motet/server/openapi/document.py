"""The OpenAPI document of this server.

Owns: what every operation has in common (errors, headers, keys), and the document's form.
Does not know: the operations (`operations_*.py`), nor how types become schemas (`schemas.py`).

Streams are described as is customary in OpenAPI 3.1: the schema of `text/event-stream` is that of
one event, whose data has a schema of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from motet import __version__
from motet.core.errors import AdapterError
from motet.server.errors import status_of
from motet.server.openapi import answers, error_codes
from motet.server.openapi.operation import Access, Answer, Json, Operation, Parameter
from motet.server.openapi.operations_admin import ADAPTERS, LOADING, MEMORY
from motet.server.openapi.operations_inference import GENERATION, MODELS, TOKENS
from motet.server.openapi.operations_server import SERVER
from motet.server.openapi.schemas import Schemas

OPERATIONS: tuple[Operation, ...] = (
    *GENERATION,
    *MODELS,
    *TOKENS,
    *ADAPTERS,
    *LOADING,
    *MEMORY,
    *SERVER,
)

_DESCRIPTION = (
    "An OpenAI-compatible server of many LoRA adapters over one base model. Where the server has "
    "no keys, none is needed. Where managing has a listener of its own, its operations are there, "
    "and only there."
)
_INTEGER: Json = {"type": "string", "pattern": "^[0-9]+$"}
_HEADERS: dict[str, tuple[str, Json]] = {
    "x-request-id": (
        "The request's own if it is 1 to 128 of `A-Za-z0-9._-`, else a new one.",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    ),
    "x-ratelimit-limit-requests": ("Requests that the key may send a minute.", _INTEGER),
    "x-ratelimit-remaining-requests": ("How many of them are left.", _INTEGER),
    "x-ratelimit-reset-requests": ("When all are there again, such as `12s`.", {"type": "string"}),
    "x-ratelimit-limit-tokens": ("Tokens that the key may use a minute.", _INTEGER),
    "x-ratelimit-remaining-tokens": ("How many of them are left.", _INTEGER),
    "x-ratelimit-reset-tokens": ("When all are there again, such as `12s`.", {"type": "string"}),
    "x-ignored-params": ("Parameters that had no effect.", {"type": "string"}),
    "x-adapter-id": (
        "What answered: the base model, an adapter, or the parts of a composition, joined by '+'.",
        {"type": "string"},
    ),
    "x-adapter-version": (
        "Which version of it, or of each part.",
        {"type": "string", "pattern": "^[0-9]+([+][0-9]+)*$"},
    ),
    "www-authenticate": ("How to authenticate.", {"const": "Bearer"}),
    "retry-after": ("After how many seconds to try again.", _INTEGER),
    "retry-after-ms": ("After how many milliseconds to try again.", _INTEGER),
    "x-should-retry": ("Whether trying again may help.", {"enum": ["true", "false"]}),
}
_OF_EVERY_ANSWER = ("x-request-id",)
_OF_LIMITED_KEYS = tuple(name for name in _HEADERS if name.startswith("x-ratelimit-"))
_OF_RETRIES = ("retry-after", "retry-after-ms", "x-should-retry")
_OF_STATUS = {401: ("www-authenticate",), 429: _OF_RETRIES, 503: _OF_RETRIES}
_ALWAYS_THERE = frozenset({"x-request-id", "www-authenticate"})


def document(*, is_lenient: bool) -> Json:
    """The document.

    Args:
        is_lenient: the server lets unknown parameters pass where `--lenient-params` says so.
    """
    schemas = Schemas.of(OPERATIONS, (answers.Error,), is_lenient=is_lenient)
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        item = _operation(operation, schemas)
        paths.setdefault(operation.path, {})[operation.method.lower()] = item
    return {
        "openapi": "3.1.0",
        "info": {"title": "Motet", "version": __version__, "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "headers": {name: _header(name) for name in _HEADERS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schemas: Schemas) -> Json:
    answers_by_status = _errors(operation, schemas)
    for answer in operation.answers:
        described_answer = _answer(operation, answer, schemas)
        error = answers_by_status.get(str(answer.status))
        answers_by_status[str(answer.status)] = _either(described_answer, error)
    described: Json = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": _security(operation.access),
        "responses": dict(sorted(answers_by_status.items())),
    }
    if operation.parameters:
        described["parameters"] = [_parameter(each) for each in operation.parameters]
    if operation.bodies:
        choices = [schemas.reference(body.model) for body in operation.bodies]
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _any_of(choices)}},
        }
    elif operation.is_declared_json:
        described["requestBody"] = {
            "description": "Not read, but `Content-Type: application/json` is needed.",
            "required": True,
            "content": {"application/json": {"schema": {}}},
        }
    return described


def _security(access: Access) -> list[Json]:
    return [] if access is Access.OPEN else [{"key": [access.value]}]


def _parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.is_required,
        "schema": parameter.schema,
    }


def _answer(operation: Operation, answer: Answer, schemas: Schemas) -> Json:
    content: Json = {}
    if answer.json is not None:
        content["application/json"] = {"schema": schemas.reference(answer.json)}
    if answer.event is not None:
        content["text/event-stream"] = {"schema": _event(answer, schemas)}
    if answer.text is not None:
        content[answer.text] = {"schema": {"type": "string"}}
    headers = _headers_of(operation)
    return {"description": answer.description, "headers": _refer(headers), "content": content}


def _either(answer: Json, error: Json | None) -> Json:
    """An answer of a status that errors have as well."""
    if error is None:
        return answer
    schemas = [each["content"]["application/json"]["schema"] for each in (answer, error)]
    content = {"application/json": {"schema": _any_of(schemas)}}
    description = f"{answer['description']} Or {error['description']}."
    return {**error, "description": description, "content": content}


def _event(answer: Answer, schemas: Schemas) -> Json:
    """The schema of one event, as its fields are read from the stream."""
    data: Json = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": schemas.reference(answer.event),
    }
    if answer.ends_with_done:
        data = {"anyOf": [{"const": "[DONE]"}, data]}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"data": data, "event": {"type": "string"}, "id": {"type": "string"}},
    }


def _errors(operation: Operation, schemas: Schemas) -> Json:
    codes_by_status: dict[int, list[str]] = {}
    for code in _codes(operation):
        # Refusals of adapters have codes of their own, which have the usual status.
        status = status_of(AdapterError("", code=code))
        codes_by_status.setdefault(status, []).append(code)
    return {
        str(status): _error(operation, status, codes, schemas)
        for status, codes in sorted(codes_by_status.items())
    }


def _codes(operation: Operation) -> Iterable[str]:
    yield from error_codes.OF_HTTP
    if operation.access is not Access.OPEN:
        yield from error_codes.OF_ACCESS
    if operation.access is Access.ADMIN:
        yield from error_codes.OF_ADMIN_ACCESS
    yield from operation.errors


def _error(operation: Operation, status: int, codes: Iterable[str], schemas: Schemas) -> Json:
    ordered = sorted(set(codes))
    code = {"properties": {"error": {"properties": {"code": {"enum": ordered}}}}}
    schema = {"allOf": [schemas.reference(answers.Error), code]}
    headers = (*_headers_of(operation), *_OF_STATUS.get(status, ()))
    return {
        "description": ", ".join(f"`{each}`" for each in ordered),
        "headers": _refer(headers),
        "content": {"application/json": {"schema": schema}},
    }


def _headers_of(operation: Operation) -> tuple[str, ...]:
    limits = () if operation.access is Access.OPEN else _OF_LIMITED_KEYS
    return (*_OF_EVERY_ANSWER, *limits, *operation.headers)


def _refer(headers: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def _header(name: str) -> Json:
    description, schema = _HEADERS[name]
    return {"description": description, "required": name in _ALWAYS_THERE, "schema": schema}


def _any_of(choices: list[Json]) -> Json:
    return choices[0] if len(choices) == 1 else {"anyOf": choices}
