"""The ASGI application: routes, error handlers and what surrounds them.

Owns: the table of routes.
Does not know: processes and sockets (`run.py` starts the engine and the HTTP server).
"""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from motet.core.errors import MotetError
from motet.server import admin, chat, completions, health, lora, models
from motet.server.auth import AuthMiddleware
from motet.server.config import ServeConfig
from motet.server.context import context_of
from motet.server.drain import Drain, DrainMiddleware
from motet.server.engine_client import EngineClient
from motet.server.errors import error_response, internal_error
from motet.server.metrics import Metrics
from motet.server.middleware import BodyLimitMiddleware, ObserveMiddleware
from motet.server.registry import AdapterRegistry
from motet.server.services import Services
from motet.server.tokenizer import TextTokenizer
from motet.server.tracing import RequestTracer

GENERATION_PATHS = frozenset({"/v1/completions", "/v1/chat/completions"})

_ROUTES = (
    ("POST", "/v1/completions", completions.create_completion),
    ("POST", "/v1/chat/completions", chat.create_chat_completion),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{model:path}", models.retrieve_model),
    ("POST", "/v1/load_lora_adapter", lora.load_lora_adapter),
    ("POST", "/v1/unload_lora_adapter", lora.unload_lora_adapter),
    ("POST", "/admin/v1/adapters/{name:path}:pin", admin.pin_adapter),
    ("POST", "/admin/v1/adapters/{name:path}:unpin", admin.unpin_adapter),
    ("GET", "/admin/v1/memory", admin.memory),
    ("GET", "/live", health.live),
    ("GET", "/ready", health.ready),
    ("GET", "/health", health.ready),
    ("GET", "/metrics", health.metrics),
)


def create_app(
    config: ServeConfig,
    client: EngineClient,
    registry: AdapterRegistry,
    tokenizer: TextTokenizer,
    metrics: Metrics,
    tracer: RequestTracer | None,
    drain: Drain,
) -> ASGIApp:
    """The application over a started engine. It keeps no state outside its arguments."""
    services = Services(config, client, registry, tokenizer, metrics, drain)
    app = FastAPI(
        title="Motet",
        openapi_url=None,
        exception_handlers={
            MotetError: _on_motet_error,
            HTTPException: _on_http_exception,
            Exception: _on_exception,
        },
    )
    for method, path, endpoint in _ROUTES:
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    # A redirect would be built from the Host header, and would not do for a POST.
    app.router.redirect_slashes = False
    app.state.services = services
    limited = BodyLimitMiddleware(app, config.max_body_bytes)
    guarded = AuthMiddleware(DrainMiddleware(limited, drain), config)
    return ObserveMiddleware(guarded, metrics, tracer, GENERATION_PATHS)


async def _on_motet_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, MotetError)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """The router's own errors: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.scope["path"]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        refusal = MotetError(f"{path} does not take {method} requests.", code="method_not_allowed")
        return error_response(refusal, dict(error.headers or {}))
    if error.status_code == HTTPStatus.NOT_FOUND:
        return error_response(
            MotetError(f"There is no {method} {path} on this server.", code="unknown_url")
        )
    return error_response(MotetError(str(error.detail), code="internal_error"))


async def _on_exception(request: Request, _: Exception) -> Response:
    """Unforeseen: it is logged further out, where it is raised again."""
    return error_response(internal_error(context_of(request.scope).request_id))
