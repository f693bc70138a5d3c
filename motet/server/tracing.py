"""One OpenTelemetry span for each generation request, after the conventions for generative AI.

Owns: the attributes of a span, and its export.
Does not know: how a request is answered; it is told when that is over.

The libraries are the extra `otel`, and are imported only where traces are asked for. A span is made
whole at the end of its request, from what the request's context has gathered; a thread of the
library's sends it. If the collector does not keep up, spans are dropped, never requests held up.

Source: OpenTelemetry's semantic conventions for generative AI spans, as of version 1.41 (in
development there); `motet.*` is what they have no name for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import Headers

from motet.core.errors import ConfigError
from motet.server.context import Figures, RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_OPERATIONS = {"/v1/completions": "text_completion"}
_TRACES_PATH = "/v1/traces"
_EXPORT_TIMEOUT_S = 5
_SHUTDOWN_TIMEOUT_S = 10

Attributes = dict[str, str | int | float | list[str]]


class RequestTracer(Protocol):
    """What is told of finished generation requests."""

    def record(
        self,
        scope: MutableMapping[str, Any],
        context: RequestContext,
        status: int,
        duration_s: float,
    ) -> None:
        """A generation request has just been answered. Does not wait."""
        ...


class OtlpTracer:
    """Spans to a collector, by OTLP over HTTP. Close it at the end."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": "motet"})  # and OTEL_RESOURCE_ATTRIBUTES
        self._provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("motet")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to_endpoint(cls, endpoint: str) -> OtlpTracer:
        """Send to a collector, given by its base URL or by that of its traces.

        Raises:
            ConfigError: no HTTP URL, or the extra `otel` is not installed.
        """
        url = traces_url(endpoint)
        try:
            exporters = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            import_module("opentelemetry.sdk.trace")
        except ImportError as error:
            raise ConfigError(
                "--otlp-endpoint needs OpenTelemetry, which is not installed. Install it with "
                "pip install 'motet[otel]'.",
                param="otlp_endpoint",
            ) from error
        return cls(exporters.OTLPSpanExporter(endpoint=url, timeout=_EXPORT_TIMEOUT_S))

    def record(
        self,
        scope: MutableMapping[str, Any],
        context: RequestContext,
        status: int,
        duration_s: float,
    ) -> None:
        """Make the span of a request, below the one that its `traceparent` header names."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        ended_ns = time.time_ns()
        attributes = span_attributes(scope, context, status)
        span = self._tracer.start_span(
            span_name(scope, context),
            context=self._propagator.extract(dict(Headers(scope=scope))),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=ended_ns - round(duration_s * 1e9),
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)

    async def close(self) -> None:
        """Send what is left, for a while."""
        closing = asyncio.to_thread(self._provider.shutdown)
        await asyncio.wait({asyncio.ensure_future(closing)}, timeout=_SHUTDOWN_TIMEOUT_S)


def traces_url(endpoint: str) -> str:
    """Where traces go: `endpoint`, below it `/v1/traces` if it has no path. Raises ConfigError."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(
            f"--otlp-endpoint {endpoint!r} should be a URL such as http://localhost:4318.",
            param="otlp_endpoint",
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") or _TRACES_PATH))


def span_name(scope: MutableMapping[str, Any], context: RequestContext) -> str:
    """The operation and, once it is known to exist, the model, as metrics call it."""
    operation, model = _operation(scope), context.model_label
    return operation if model is None else f"{operation} {model}"


def span_attributes(
    scope: MutableMapping[str, Any], context: RequestContext, status: int
) -> Attributes:
    """What a span says of a request. What is not known is left out, as is all text."""
    principal = context.principal
    attributes: dict[str, str | int | float | list[str] | None] = {
        "gen_ai.operation.name": _operation(scope),
        "gen_ai.provider.name": "motet",
        "gen_ai.request.model": context.adapter_name,
        "gen_ai.response.model": context.adapter_name,
        "http.request.method": scope["method"],
        "http.response.status_code": status,
        "url.path": scope["path"],
        "error.type": context.error_code,
        "motet.request_id": context.request_id,
        "motet.tenant": principal.tenant,
        "motet.key_id": principal.key_id,
        **({} if context.figures is None else _figure_attributes(context.figures)),
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _operation(scope: MutableMapping[str, Any]) -> str:
    return _OPERATIONS.get(scope["path"], "chat")


def _figure_attributes(figures: Figures) -> dict[str, int | float | list[str] | None]:
    return {
        "gen_ai.usage.input_tokens": figures.num_prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": figures.num_cached_tokens,
        "gen_ai.usage.output_tokens": figures.num_output_tokens,
        "gen_ai.response.finish_reasons": list(figures.finish_reasons),
        "gen_ai.response.time_to_first_chunk": figures.ttft_s,
        "motet.queue_time": figures.queue_s,
    }
