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
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from motet.core.errors import MotetError
from motet.server import (
    admin,
    admin_adapters,
    admin_events,
    chat,
    completions,
    health,
    lora,
    models,
    tokenize,
)
from motet.server.auth import AuthMiddleware, Surface
from motet.server.context import context_of
from motet.server.deadline_middleware import DeadlineMiddleware
from motet.server.drain import DrainMiddleware
from motet.server.errors import error_response, internal_error, unknown_url
from motet.server.key_ring import KeyRing
from motet.server.limit_middleware import LimitMiddleware
from motet.server.middleware import BodyLimitMiddleware, ObserveMiddleware
from motet.server.openapi.endpoint import openapi
from motet.server.responses.endpoint import create_response
from motet.server.services import Services
from motet.server.tracing import RequestTracer

GENERATION_PATHS = frozenset({"/v1/completions", "/v1/chat/completions", "/v1/responses"})

ROUTES = (
    ("POST", "/v1/completions", completions.create_completion),
    ("POST", "/v1/chat/completions", chat.create_chat_completion),
    ("POST", "/v1/responses", create_response),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{model:path}", models.retrieve_model),
    ("POST", "/tokenize", tokenize.tokenize),
    ("POST", "/v1/tokenize", tokenize.tokenize),
    ("POST", "/detokenize", tokenize.detokenize),
    ("POST", "/v1/detokenize", tokenize.detokenize),
    ("GET", "/tokenizer_info", tokenize.tokenizer_info),
    ("GET", "/v1/tokenizer_info", tokenize.tokenizer_info),
    ("POST", "/v1/load_lora_adapter", lora.load_lora_adapter),
    ("POST", "/v1/unload_lora_adapter", lora.unload_lora_adapter),
    ("POST", "/load_lora_adapter", lora.sglang_load_lora_adapter),
    ("POST", "/unload_lora_adapter", lora.sglang_unload_lora_adapter),
    ("POST", "/admin/v1/adapters", admin_adapters.create_adapter),
    ("GET", "/admin/v1/adapters", admin_adapters.list_adapters),
    ("GET", "/admin/v1/adapters/{name:path}", admin_adapters.retrieve_adapter),
    ("DELETE", "/admin/v1/adapters/{name:path}", admin_adapters.delete_adapter),
    ("PUT", "/admin/v1/adapters/{name:path}/alias", admin_adapters.put_alias),
    ("POST", "/admin/v1/adapters/{name:path}:rollback", admin_adapters.roll_back),
    ("POST", "/admin/v1/adapters/{name:path}:pin", admin_adapters.pin_adapter),
    ("POST", "/admin/v1/adapters/{name:path}:unpin", admin_adapters.unpin_adapter),
    ("POST", "/admin/v1/adapters/{name:path}:warm", admin_adapters.warm_adapter),
    ("GET", "/admin/v1/operations/{operation_id}", admin_adapters.retrieve_operation),
    ("GET", "/admin/v1/events", admin_events.events),
    ("GET", "/admin/v1/memory", admin.memory),
    ("GET", "/live", health.live),
    ("GET", "/ready", health.ready),
    ("GET", "/health", health.ready),
    ("GET", "/metrics", health.metrics),
    ("GET", "/openapi.json", openapi),
)


def create_apps(
    services: Services, keys: KeyRing, tracer: RequestTracer | None
) -> dict[Surface, ASGIApp]:
    """The application over a started engine, once for each listener that there is to be.

    They share everything but the routes that they have. No state is kept outside the arguments.
    """
    config = services.config
    app = FastAPI(
        title="Motet",
        openapi_url=None,
        exception_handlers={
            MotetError: _on_motet_error,
            HTTPException: _on_http_exception,
            Exception: _on_exception,
        },
    )
    for method, path, endpoint in ROUTES:
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    # A redirect would be built from the Host header, and would not do for a POST.
    app.router.redirect_slashes = False
    app.state.services = services
    bounded = BodyLimitMiddleware(app, config.max_body_bytes)
    limited = LimitMiddleware(DeadlineMiddleware(bounded, config))
    drained = DrainMiddleware(limited, services.drain)
    is_split = config.admin_address is not None
    surfaces = (Surface.PUBLIC, Surface.ADMIN) if is_split else (Surface.WHOLE,)
    guarded = {surface: AuthMiddleware(drained, config, keys, surface) for surface in surfaces}
    return {
        surface: ObserveMiddleware(each, services.metrics, tracer, GENERATION_PATHS)
        for surface, each in guarded.items()
    }


async def _on_motet_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, MotetError)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """The router's own errors: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.scope["path"]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        refusal = MotetError(f"{path} does not take {method} requests.", code="method_not_allowed")
        return error_response(refusal, {"Allow": ", ".join(_methods_of(request))})
    if error.status_code == HTTPStatus.NOT_FOUND:
        return error_response(unknown_url(method, path))
    return error_response(MotetError(str(error.detail), code="internal_error"))


def _methods_of(request: Request) -> list[str]:
    """All methods that the path takes. The router knows those of the first route that has it."""
    routes: list[Route] = request.app.router.routes
    return sorted(
        method
        for route in routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    )


async def _on_exception(request: Request, _: Exception) -> Response:
    """Unforeseen: it is logged further out, where it is raised again."""
    return error_response(internal_error(context_of(request.scope).request_id))
