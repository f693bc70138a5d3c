"""What happens around every request, whichever route it takes.

Owns: request ids, the headers that say who answered, when a request is logged, counted and traced,
the last resort for exceptions, and the limit on body size. Pure ASGI throughout: wrappers that
buffer hide a client's departure.
Does not know: routes and keys.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from urllib.parse import quote

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motet.core.errors import MotetError
from motet.server.context import RequestContext, put_context
from motet.server.errors import error_response, internal_error
from motet.server.metrics import Metrics
from motet.server.request_log import log_fields
from motet.server.tracing import RequestTracer

# Anything else could forge log lines or headers.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

# They come every few seconds, and say nothing while they succeed.
_PROBE_PATHS = frozenset({"/live", "/ready", "/health", "/metrics"})

_log = structlog.get_logger()


class ObserveMiddleware:
    """Outermost: gives each request an id, an answer, a log line and a place in the metrics."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        tracer: RequestTracer | None,
        generation_paths: frozenset[str],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer
        self._generation_paths = generation_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(
            _request_id(Headers(scope=scope).get("x-request-id")),
            is_generation=scope["path"] in self._generation_paths and scope["method"] == "POST",
        )
        put_context(scope, context)
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                _add_headers(MutableHeaders(scope=message), context)
                if context.status is None:
                    context.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            _log.exception("unforeseen error", request_id=context.request_id)
            context.status, context.error_code = 500, "internal_error"
            if not has_started:
                response = error_response(internal_error(context.request_id))
                await response(scope, receive, send_with_id)
        finally:
            if context.lease is not None:
                context.lease.end()
            self._observe(scope, context)

    def _observe(self, scope: Scope, context: RequestContext) -> None:
        duration_s = time.monotonic() - context.started_s
        # No status: the server was told to stop before there was an answer.
        status = context.status or 503
        if context.is_generation:
            self._metrics.observe_request(context.model_label, status, duration_s)
            if self._tracer is not None:
                self._tracer.record(scope, context, status, duration_s)
        if context.error_code is not None:
            self._metrics.observe_error(context.error_code)
        if context.refusal is not None:
            self._metrics.count_refusal(context.refusal)
        if scope["path"] in _PROBE_PATHS and status < 400:
            return
        _log.info("request", **log_fields(scope, context, status, duration_s))


class BodyLimitMiddleware:
    """Refuses bodies over a limit: at once if their length is declared, else as they exceed it."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_body_bytes:
            await error_response(self._too_large())(scope, receive, send)
            return
        await self._app(scope, _counting(receive, self._max_body_bytes, self._too_large), send)

    def _too_large(self) -> MotetError:
        return MotetError(
            f"The body is larger than {self._max_body_bytes} bytes. Send fewer or shorter prompts.",
            code="request_too_large",
        )


def _add_headers(headers: MutableHeaders, context: RequestContext) -> None:
    headers["x-request-id"] = context.request_id
    if context.adapter_name is not None:
        # The base model may have a name that a header cannot hold.
        headers["x-adapter-id"] = quote(context.adapter_name, safe="/:@+")
    if context.adapter_versions:
        headers["x-adapter-version"] = "+".join(map(str, context.adapter_versions))


def _counting(receive: Receive, limit: int, too_large: Callable[[], MotetError]) -> Receive:
    num_bytes = 0

    async def counted() -> Message:
        nonlocal num_bytes
        message = await receive()
        if message["type"] == "http.request":
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                raise too_large()
        return message

    return counted


def _request_id(given: str | None) -> str:
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex
