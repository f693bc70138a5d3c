"""Who may do what: no route that forgets to ask.

Owns: the decision on each request, which listener answers it, and whose prefix cache it shares.
Does not know: what the routes do, nor where keys come from (`key_ring.py`).

- `/live`, `/ready` and `/health` are open: probes carry no keys and learn nothing.
- Everything else needs a key as soon as any key is set, whether or not there is such a route;
  so does `/metrics`, which names the adapters and so the tenants: a key that may not see all of
  them does not open it. Prometheus sends a bearer token.
- Everything below `/admin/`, and loading and unloading, need a key with the admin role; if only
  an API key is set, that one has it. Where these routes have a listener of their own, the public
  one does not have them.
- If only an admin key is set, it is needed for everything else too.
- Without keys the server listens on a loopback address only, and answers only requests that
  were made for one by name (`hosts.py`).

The decision is made on the path that the router sees, never on a reconstructed URL. The router's
patterns also match a path that ends with a newline, so such a path would be judged as one and
answered as another: what holds control characters is no path here.
"""

from __future__ import annotations

from enum import Enum

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from motet.core.errors import MotetError
from motet.server.config import ServeConfig
from motet.server.context import context_of
from motet.server.errors import error_response, unknown_url
from motet.server.hosts import require_allowed_host
from motet.server.key_ring import KeyRing
from motet.server.keys import Key

OPEN_PATHS = frozenset({"/live", "/ready", "/health"})
METRICS_PATH = "/metrics"
ADMIN_PREFIX = "/admin/"  # all that is below it, whether or not there is such a route
ADMIN_PATHS = frozenset(
    f"{prefix}/{verb}_lora_adapter" for prefix in ("", "/v1") for verb in ("load", "unload")
)


class Surface(Enum):
    """Which routes a listener has."""

    WHOLE = "whole"
    PUBLIC = "public"
    ADMIN = "admin"

    def has(self, path: str) -> bool:
        """Whether requests for this path are answered here. Health and metrics always are."""
        if self is Surface.WHOLE or path in OPEN_PATHS or path == METRICS_PATH:
            return True
        return is_admin_path(path) == (self is Surface.ADMIN)


class AuthMiddleware:
    """Refuses what a request has no key for, before any route sees it; notes who sends it."""

    def __init__(
        self, app: ASGIApp, config: ServeConfig, keys: KeyRing, surface: Surface = Surface.WHOLE
    ) -> None:
        self._app = app
        self._keys = keys
        self._surface = surface
        self._has_keys = config.has_keys
        self._allowed_hosts = frozenset(host.lower() for host in config.allowed_hosts)
        self._shares_prefixes = config.share_prefix_cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _close_other(scope, send)
            return
        try:
            self._admit(scope)
        except MotetError as refusal:
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        path: str = scope["path"]
        if path in OPEN_PATHS:
            return
        headers = Headers(scope=scope)
        for host in headers.getlist("host"):  # more than one is a trick
            require_allowed_host(host, self._allowed_hosts, has_keys=self._has_keys)
        key = self._key_in(headers) if self._has_keys else None
        if not path.isprintable() or not self._surface.has(path):
            raise unknown_url(scope["method"], path)
        if key is None:
            return
        principal = key.principal
        if is_admin_path(path) and not principal.is_admin:
            raise MotetError(
                "This key may neither manage adapters nor look into the server; that takes an "
                "admin key.",
                code="insufficient_permissions",
            )
        if path == METRICS_PATH and principal.adapters is not None and not principal.is_admin:
            raise MotetError(
                "Metrics name all adapters, and this key may see some only; that takes a key "
                "without a list of adapters.",
                code="insufficient_permissions",
            )
        context = context_of(scope)
        context.principal = principal
        context.limits = key.limits
        if not self._shares_prefixes:
            context.tenant = principal.tenant

    def _key_in(self, headers: Headers) -> Key:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise MotetError(
                "No API key was given. Send it in the header Authorization: Bearer KEY.",
                code="invalid_api_key",
            )
        key = self._keys.find(secret.strip())
        if key is None:
            raise MotetError("The API key is not valid.", code="invalid_api_key")
        if self._keys.has_expired(key):
            raise MotetError("The API key has expired.", code="invalid_api_key")
        return key


def is_admin_path(path: str) -> bool:
    """Whether a path takes the admin role, be there such a route or not."""
    return path in ADMIN_PATHS or path.startswith(ADMIN_PREFIX)


async def _close_other(scope: Scope, send: Send) -> None:
    """There are no WebSockets here, and whatever else may come has no key either."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
