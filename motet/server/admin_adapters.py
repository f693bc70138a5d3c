"""The routes below /admin/v1/adapters and /admin/v1/operations: adapters as resources.

Owns: these endpoints: what they take, and how they answer.
Does not know: how adapters are deployed and changed (`deployments.py`, `adapter_changes.py`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from motet.core.errors import MotetError
from motet.server.adapter import Adapter, Part, Source, SourceType
from motet.server.adapter_json import Tiers, adapter_json, operation_json, tiers_of
from motet.server.admin_protocol import (
    AliasRequest,
    CreateAdapterRequest,
    RollbackRequest,
    SourceBody,
)
from motet.server.audit import auditing
from motet.server.composition import SEPARATOR
from motet.server.context import context_of
from motet.server.deployments import Deployment
from motet.server.errors import bad_request
from motet.server.operations import OperationState
from motet.server.parsing import parse, read_json_object, require_json
from motet.server.replies import unless_client_leaves
from motet.server.services import Services, services_of
from motet.server.stored_compositions import pinned_parts

MAX_DRAIN_TIMEOUT_S = 3600.0

_MEMORY_TIMEOUT_S = 2.0


async def create_adapter(request: Request) -> Response:
    """A new version of an adapter. 202 with an operation, or with `wait` its end."""
    params = parse(CreateAdapterRequest, await read_json_object(request))
    source, parts = await _source(services_of(request), params)
    deployment = Deployment(
        params.name,
        source,
        parts,
        digest=params.sha256,
        pin=params.pin,
        activate=params.activate,
        warm=params.warm,
        created_by=context_of(request.scope).principal.key_id,
    )
    about = {"adapter": params.name, "source": f"{source.type.value}:{source.uri}"}
    with auditing(request, "adapter.create", **about):
        operation = await services_of(request).admin.deployments.start(deployment)
        if params.wait:
            await unless_client_leaves(request.receive, operation.wait())
    is_running = operation.state is OperationState.RUNNING
    return _json({"operation": operation_json(operation)}, 202 if is_running else 200)


async def list_adapters(request: Request) -> Response:
    """All adapters with their versions and aliases."""
    services = services_of(request)
    tiers = await _tiers(services)
    adapters = services.registry.catalogue.all()
    # In a thread, for a list of many thousands must not hold up everybody's tokens.
    return await asyncio.to_thread(_list, services, adapters, tiers)


async def retrieve_adapter(request: Request) -> Response:
    """One of them. Raises MotetError (404)."""
    services = services_of(request)
    name = request.path_params["name"]
    await services.registry.names.look_up(name)
    adapter = services.registry.names.adapter(name, "name")
    return _json(adapter_json(services.registry, adapter, await _tiers(services)))


async def put_alias(request: Request) -> Response:
    """Have a name mean other versions, in one step. Raises MotetError: 404, 409, 412."""
    name = request.path_params["name"]
    params = parse(AliasRequest, await read_json_object(request))
    with auditing(request, "adapter.alias", adapter=name, weights=params.weights):
        changes = services_of(request).admin.changes
        adapter = await changes.point(name, params.weights, params.if_match)
    return _changed(request, adapter)


async def roll_back(request: Request) -> Response:
    """Have a name mean what it meant before. Raises MotetError: 404, 409, 412."""
    name = request.path_params["name"]
    headers = request.headers
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    body = await read_json_object(request) if has_body else {}
    require_json(request)
    params = parse(RollbackRequest, body)
    with auditing(request, "adapter.rollback", adapter=name):
        adapter = await services_of(request).admin.changes.roll_back(name, params.if_match)
    return _changed(request, adapter)


async def pin_adapter(request: Request) -> Response:
    """Keep an adapter on the device; answers once it is there. Raises MotetError."""
    require_json(request)
    name = request.path_params["name"]
    with auditing(request, "adapter.pin", adapter=name):
        adapter = await services_of(request).admin.changes.pin(name)
    return _changed(request, adapter)


async def unpin_adapter(request: Request) -> Response:
    """Let an adapter be evicted again. Raises MotetError."""
    require_json(request)
    name = request.path_params["name"]
    with auditing(request, "adapter.unpin", adapter=name):
        adapter = await services_of(request).admin.changes.unpin(name)
    return _changed(request, adapter)


async def warm_adapter(request: Request) -> Response:
    """Bring an adapter to the device, free to be evicted. Raises MotetError."""
    require_json(request)
    name = request.path_params["name"]
    with auditing(request, "adapter.warm", adapter=name):
        adapter = await services_of(request).admin.changes.warm(name)
    return _changed(request, adapter)


async def delete_adapter(request: Request) -> Response:
    """Delete a name, or with NAME@3 one version; answers once its requests have ended.

    Raises MotetError: 404, 409 for a version that the alias names or something is made of.
    """
    services = services_of(request)
    spelling = services.registry.names.parse(request.path_params["name"])
    timeout_s = _seconds(request, "drain_timeout_s", services.config.drain_timeout_s)
    force = _flag(request, "force")
    about = {"adapter": spelling.name, "version": spelling.number, "force": force}
    with auditing(request, "adapter.delete", **about):
        drain = await services.admin.changes.delete(
            spelling.name, spelling.number, force=force, drain_timeout_s=timeout_s, param="name"
        )
    # It goes on if the client leaves.
    is_drained = await asyncio.shield(drain)
    return _json(
        {
            "name": spelling.name,
            "version": spelling.number,
            "deleted": True,
            "drained": is_drained,
        }
    )


async def retrieve_operation(request: Request) -> Response:
    """How a load stands. Raises MotetError (404)."""
    operations = services_of(request).admin.deployments.operations
    return _json(operation_json(operations.get(request.path_params["operation_id"])))


async def _source(
    services: Services, params: CreateAdapterRequest
) -> tuple[Source, tuple[Part, ...]]:
    """Where the new version comes from, and of a composition what it is made of."""
    given = params.source
    if isinstance(given, SourceBody):
        return Source(SourceType(given.type), given.uri, given.revision), ()
    parts = await pinned_parts(services.registry, params.name, given.parts)
    ids = SEPARATOR.join(part.version_id for part in parts)
    return Source(SourceType.COMPOSITION, ids), parts


def _list(services: Services, adapters: Sequence[Adapter], tiers: Tiers | None) -> Response:
    shown = [adapter_json(services.registry, adapter, tiers) for adapter in adapters]
    return _json({"object": "list", "data": shown})


async def _tiers(services: Services) -> Tiers | None:
    """Where adapters are, unless the engine is down or too busy to say so in time."""
    try:
        report = await asyncio.wait_for(services.client.memory(), _MEMORY_TIMEOUT_S)
    except (MotetError, TimeoutError):
        return None
    return tiers_of(report)


def _changed(request: Request, adapter: Adapter) -> Response:
    """The adapter as it is now, with the digest that most of its requests get."""
    shown = adapter_json(services_of(request).registry, adapter, None)
    return _json({**shown, "digest": None if adapter.main is None else adapter.main.digest})


def _seconds(request: Request, name: str, default: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_DRAIN_TIMEOUT_S:  # also for NaN
        raise bad_request(
            f"'{name}' should be a number of seconds from 0 to {MAX_DRAIN_TIMEOUT_S:g}; got "
            f"{text[:80]!r}.",
            name,
        )
    return seconds


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false", "1", "0"):
        raise bad_request(f"'{name}' should be true or false; got {text[:80]!r}.", name)
    return text in ("true", "1")


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")
