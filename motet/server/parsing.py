"""From the bytes of a request to a checked model, or to an error that names the field at fault.

Owns: reading JSON bodies, and the OpenAI error of each way to get one wrong.
Does not know: which fields there are (`protocol.py`).
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from motet.core.errors import MotetError
from motet.server.errors import bad_request
from motet.server.json_bounds import require_few_parts, require_shallow, structure_of
from motet.server.parameters import suggestion
from motet.server.replies import ClientLeftError

RequestT = TypeVar("RequestT", bound=BaseModel)

# Names of unknown fields are the client's; an error does not repeat any length of them.
MAX_PARAM_CHARS = 128
# What is nested a thousand deep would be too much for Python's own, and of a long list a short
# beginning is enough.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100


def require_json(request: Request) -> None:
    """Raises MotetError (415) unless the body, if there is one, is declared to be JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        # This also keeps other sites' pages from posting here: a browser asks first for JSON.
        raise MotetError(
            f"The body is declared as {media_type or 'nothing'!r}; send JSON with the header "
            "Content-Type: application/json.",
            code="unsupported_media_type",
        )


async def read_json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises MotetError: 400, 413, 415, or that the client left."""
    require_json(request)
    try:
        body = await request.body()
    except ClientDisconnect:
        raise ClientLeftError from None
    structure = structure_of(body)
    require_few_parts(structure)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _malformed(body, error) from None
    require_shallow(structure)
    if not isinstance(value, dict):
        raise bad_request(
            f"The body should be a JSON object; got {_shortened(value)}.", None, code="invalid_type"
        )
    return value


def _malformed(body: bytes, error: orjson.JSONDecodeError) -> MotetError:
    """NaN and infinities are not JSON, but some clients write them: say which field has one."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, float) and not math.isfinite(item):
                return bad_request(f"'{name}' should be a finite number; got {item}.", name)
    return bad_request(f"The body is not valid JSON: {error}.", None, code="invalid_json")


def parse(model: type[RequestT], body: Mapping[str, Any]) -> RequestT:
    """`body` as `model`. Raises MotetError (400) that names the first field at fault."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        details = error.errors(include_url=False)
    # An unknown name explains a missing one, so it is reported first.
    details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
    raise _as_motet_error(details[0], model) from None


def _as_motet_error(detail: ErrorDetails, model: type[BaseModel]) -> MotetError:
    context = detail.get("ctx", {})
    param = context.get("param") or _dotted(detail["loc"])
    match detail["type"]:
        case "extra_forbidden":
            hint = suggestion(param, model.model_fields)
            return bad_request(
                f"Unknown parameter: '{param}'.{hint}", param, code="unknown_parameter"
            )
        case "missing":
            return bad_request(
                f"Missing required parameter: '{param}'.", param, code="missing_required_parameter"
            )
        case kind:
            usual = "invalid_type" if kind.endswith("_type") else "invalid_value"
            code = context.get("code", usual)
            # A whole body is no help in a message about one of its fields.
            got = "" if "param" in context else f"; got {_shortened(detail['input'])}"
            return bad_request(f"'{param}' {_expectation(detail)}{got}.", param, code=code)


def _expectation(detail: ErrorDetails) -> str:
    """pydantic's message as the rest of a sentence that begins with the parameter."""
    message = detail["msg"].replace(" after validation", "")
    for subject in ("Input ", "List ", "String "):
        message = message.removeprefix(subject)
    return message.partition(" or instance of ")[0]


def _dotted(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "content", "str") as messages[0].content: branches of unions left out."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part == "str" or "[" in part:
            continue
        else:
            text += f".{part}" if text else part
    return text[:MAX_PARAM_CHARS]


def _shortened(value: Any) -> str:
    text = _REPR.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
