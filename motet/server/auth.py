"""Who may do what: two keys, and no route that forgets to ask.

Owns: the roles, the decision on each request, and whose prefix cache it shares (its tenant).
Does not know: what the routes do.

- `/live`, `/ready` and `/health` are open: probes carry no keys and learn nothing.
- Everything else needs a key as soon as any key is set, whether or not there is such a route;
  so does `/metrics`, which names the adapters and so the tenants. Prometheus sends a bearer token.
- Everything below `/admin/`, and loading and unloading, need the admin key; if only an API key
  is set, that one does.
- If only an admin key is set, it is needed for everything else too.
- Without keys the server listens on a loopback address only, and answers only requests that
  were made for one by name: else a web page could reach it by having its own name resolve here.

The decision is made on the path that the router sees, never on a reconstructed URL.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from motet.core.errors import MotetError
from motet.server.config import ServeConfig, is_loopback
from motet.server.context import context_of
from motet.server.errors import error_response

OPEN_PATHS = frozenset({"/live", "/ready", "/health"})
ADMIN_PREFIX = "/admin/"  # all that is below it, whether or not there is such a route
ADMIN_PATHS = frozenset(
    f"{prefix}/{verb}_lora_adapter" for prefix in ("", "/v1") for verb in ("load", "unload")
)


class Role(Enum):
    """What a key allows."""

    API = "api"
    ADMIN = "admin"


class KeyRing:
    """The configured keys, as digests."""

    def __init__(self, api_key: str | None, admin_key: str | None) -> None:
        self._api_digest = _digest_or_none(api_key)
        self._admin_digest = _digest_or_none(admin_key if admin_key is not None else api_key)

    @property
    def is_empty(self) -> bool:
        return self._admin_digest is None

    def role_of(self, key: str) -> Role | None:
        """The highest role of a key; None if it is unknown. Takes the same time for any key."""
        digest = _digest(key)
        is_admin = self._admin_digest is not None and hmac.compare_digest(
            digest, self._admin_digest
        )
        is_api = self._api_digest is not None and hmac.compare_digest(digest, self._api_digest)
        if is_admin:
            return Role.ADMIN
        return Role.API if is_api else None


class AuthMiddleware:
    """Refuses what a request has no key for, before any route sees it; notes the tenant."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app = app
        self._keys = KeyRing(config.api_key, config.admin_key)
        self._shares_prefixes = config.share_prefix_cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> MotetError | None:
        path: str = scope["path"]
        headers = Headers(scope=scope)
        if path in OPEN_PATHS:
            return None
        if self._keys.is_empty:
            return _foreign_host(headers.get("host", ""))
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return MotetError(
                "No API key was given. Send it in the header Authorization: Bearer KEY.",
                code="invalid_api_key",
            )
        role = self._keys.role_of(key.strip())
        if role is None:
            return MotetError("The API key is not valid.", code="invalid_api_key")
        if _is_admin_path(path) and role is not Role.ADMIN:
            return MotetError(
                "This key may neither manage adapters nor look into the server; that takes the "
                "admin key.",
                code="insufficient_permissions",
            )
        if not self._shares_prefixes:
            context_of(scope).tenant = role.value
        return None


def _is_admin_path(path: str) -> bool:
    return path in ADMIN_PATHS or path.startswith(ADMIN_PREFIX)


def _foreign_host(host: str) -> MotetError | None:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if not host or is_loopback(name):
        return None
    return MotetError(
        "This server has no API key, so it answers only requests that are addressed to localhost "
        "or a loopback address. Start it with --api-key to use other names.",
        code="host_not_allowed",
    )


def _digest(key: str) -> bytes:
    # Keys are long and random; a slow password hash per request would only help attackers.
    return hashlib.sha256(key.encode()).digest()


def _digest_or_none(key: str | None) -> bytes | None:
    return None if key is None else _digest(key)
