"""From an error to OpenAI's error object and an HTTP status.

Owns: which code gets which status and type, the shape of the body, and what the request's context
is told of it.
Does not know: who raised the error, or why.
"""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from motet.core.errors import AdapterError, MotetError
from motet.server.context import RequestContext, context_of
from motet.server.refusals import RefusalReason

_STATUS_OF_CODE = {
    "invalid_api_key": 401,
    "insufficient_permissions": 403,
    "host_not_allowed": 403,
    "path_not_allowed": 403,
    "source_not_allowed": 403,
    "model_not_found": 404,
    "adapter_not_found": 404,
    "version_not_found": 404,
    "operation_not_found": 404,
    "unknown_url": 404,
    "method_not_allowed": 405,
    "adapter_in_use": 409,
    "adapter_deleted": 409,
    "version_not_ready": 409,
    "nothing_to_roll_back": 409,
    "alias_changed": 412,
    "request_timeout": 408,
    "request_too_large": 413,
    "url_too_long": 414,
    "unsupported_media_type": 415,
    "rate_limit_exceeded": 429,
    "headers_too_large": 431,
    "client_closed_request": 499,
    "client_too_slow": 499,
    "internal_error": 500,
    "engine_dead": 500,
    "engine_restarting": 503,
    "shutting_down": 503,
    "adapter_unavailable": 503,
    "source_unavailable": 503,
    "overloaded": 503,
    "too_many_connections": 503,
    "timeout": 504,
}

# Codes of a request that can never succeed as it is.
_BAD_REQUEST_CODES = frozenset(
    {
        "invalid_http",
        "invalid_json",
        "invalid_type",
        "invalid_value",
        "missing_required_parameter",
        "unknown_parameter",
        "unsupported_parameter",
        "context_length_exceeded",
        "pool_too_small",
        "adapter_already_loaded",
        "adapter_too_large",
        "pins_exceed_pool",
        "digest_mismatch",
        "grammar_error",
    }
)

# A restart of the engine takes seconds, and so does whatever brings an adapter's files back;
# clients must not hammer the server meanwhile.
RETRY_AFTER_S = 5


class RetryLaterError(MotetError):
    """A request that is refused now and may be taken later.

    Args:
        retry_after_s: in how many seconds; None if no wait would help.
    """

    def __init__(self, message: str, *, code: str, retry_after_s: float | None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """What tells a client: the standard header, and what OpenAI's own clients go by."""
        if self.retry_after_s is None:
            return {"x-should-retry": "false"}
        return {
            "Retry-After": str(max(1, math.ceil(self.retry_after_s))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after_s * 1000))),
            "x-should-retry": "true",
        }


class OverloadedError(RetryLaterError):
    """503 `overloaded`: there is too much to do for this request, which would be served otherwise.

    Args:
        reason: what there is too much of.
    """

    def __init__(self, message: str, *, reason: RefusalReason, retry_after_s: float) -> None:
        super().__init__(message, code="overloaded", retry_after_s=retry_after_s)
        self.reason = reason


def bad_request(message: str, param: str | None, *, code: str = "invalid_value") -> MotetError:
    """An error of the client's, with the field at fault."""
    return MotetError(message, code=code, param=param)


def adapter_refusal(message: str, param: str | None, *, code: str) -> AdapterError:
    """An adapter's refusal where `lora_path` was not what asked for it."""
    error = AdapterError(message, code=code)
    error.param = param
    return error


def status_of(error: MotetError) -> int:
    """The HTTP status of an error; what nobody foresaw is a fault of the server."""
    if status := _STATUS_OF_CODE.get(error.code):
        return status
    if error.code in _BAD_REQUEST_CODES or isinstance(error, AdapterError):
        return 400
    return 500


def codes_by_status() -> dict[int, list[str]]:
    """All codes that this module knows, in order. Refusals of adapters may have others, with 400.

    The statuses are those of `status_of`.
    """
    by_status: dict[int, list[str]] = {400: sorted(_BAD_REQUEST_CODES)}
    for code, status in _STATUS_OF_CODE.items():
        by_status.setdefault(status, []).append(code)
    return dict(sorted(by_status.items()))


def error_body(error: MotetError) -> dict[str, Any]:
    """OpenAI's error object: all four keys are always there, and `code` is a string."""
    status = status_of(error)
    if status >= 500:
        kind = "server_error"
    elif status == 403:
        kind = "permission_error"
    elif status == 429:
        kind = "rate_limit_error"
    else:
        kind = "invalid_request_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


def note_error(context: RequestContext, error: MotetError) -> None:
    """Tell a request's context what the request came to."""
    context.error_code = error.code
    if isinstance(error, OverloadedError):
        context.refusal = error.reason


class ErrorResponse(Response):
    """The response that says an error, which is noted in the request's context."""

    media_type = "application/json"

    def __init__(self, error: MotetError, headers: dict[str, str]) -> None:
        super().__init__(orjson.dumps(error_body(error)), status_of(error), headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note_error(context_of(scope), self._error)
        await super().__call__(scope, receive, send)


def error_response(error: MotetError, headers: dict[str, str] | None = None) -> ErrorResponse:
    """The response that says `error`, with the headers that its status calls for."""
    status = status_of(error)
    all_headers = dict(headers or {})
    if status == 401:
        all_headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RetryLaterError):
        all_headers |= error.headers
    elif status == 503:
        all_headers["Retry-After"] = str(RETRY_AFTER_S)
    return ErrorResponse(error, all_headers)


def unknown_url(method: str, path: str) -> MotetError:
    """There is no such route, or not for whoever asks here."""
    return MotetError(f"There is no {method} {path} on this server.", code="unknown_url")


def internal_error(request_id: str) -> MotetError:
    """What a client learns of an unforeseen exception: nothing but where to look."""
    return MotetError(
        f"The server failed on this request. Its log has the details under request id "
        f"{request_id}.",
        code="internal_error",
    )
