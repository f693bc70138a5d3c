"""GET /v1/models and /v1/models/{id}: the base model first, then every adapter.

Owns: the JSON of a model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from motet.server.adapter import Adapter, Version
from motet.server.adapter_json import composition_json, kind_json
from motet.server.context import context_of
from motet.server.principal import Principal
from motet.server.services import Services, services_of

_OWNER = "motet"
_STARTED_AT = int(time.time())


async def list_models(request: Request) -> Response:
    """All names that whoever asks may use as `model`."""
    services = services_of(request)
    adapters = services.registry.catalogue.all()
    principal = context_of(request.scope).principal
    # In a thread, for a list of many thousands must not hold up everybody's tokens.
    return await asyncio.to_thread(_list, services, adapters, principal)


async def retrieve_model(request: Request) -> Response:
    """One of them. Raises MotetError (404)."""
    services = services_of(request)
    principal = context_of(request.scope).principal
    found = await services.registry.names.find(request.path_params["model"], principal)
    match found:
        case None:
            return _json(_base(services))
        case Version():
            is_pinned = _is_pinned(services, found)
            return _json(_version(services, found, found.id, principal, is_pinned=is_pinned))
        case Adapter():
            return _json(_adapter(services, found, principal))


def _list(services: Services, adapters: Sequence[Adapter], principal: Principal) -> Response:
    models = [_base(services)]
    for adapter in adapters:
        if adapter.alias is not None and principal.may_use(adapter.name):
            models.append(_adapter(services, adapter, principal))
    return _json({"object": "list", "data": models})


def _base(services: Services) -> dict[str, Any]:
    name = services.registry.names.base_name
    return {
        "id": name,
        "object": "model",
        "created": _STARTED_AT,
        "owned_by": _OWNER,
        "root": name,
        "parent": None,
        "max_model_len": services.client.info.max_model_len,
    }


def _adapter(services: Services, adapter: Adapter, principal: Principal) -> dict[str, Any]:
    """A name, shown as the version that most of its requests get."""
    assert adapter.main is not None  # only such are found and listed
    return _version(services, adapter.main, adapter.name, principal, is_pinned=adapter.is_pinned)


def _is_pinned(services: Services, version: Version) -> bool:
    adapter = services.registry.catalogue.get(version.name)
    return adapter is not None and adapter.is_pinned and version.number in adapter.targets


def _root(version: Version, model_id: str, principal: Principal) -> str:
    """Where its files are. Tenants learn nothing of this machine's disks and others' buckets."""
    if not principal.is_admin:
        return model_id
    return version.source.uri if version.path is None else str(version.path)


def _composition(version: Version, principal: Principal) -> dict[str, float] | None:
    """What it is made of, unless a part is not for whoever asks: they learn no names from it."""
    may_see = all(principal.may_use(part.name) for part in version.parts)
    return composition_json(version) if may_see else None


def _version(
    services: Services, version: Version, model_id: str, principal: Principal, *, is_pinned: bool
) -> dict[str, Any]:
    info = version.info  # what is not read yet is null
    return {
        "id": model_id,
        "object": "model",
        "created": version.created_at,
        "owned_by": _OWNER,
        "root": _root(version, model_id, principal),
        "parent": services.registry.names.base_name,
        "max_model_len": services.client.info.max_model_len,
        "version": version.number,
        **kind_json(version),
        "digest": None if info is None else info.digest,
        "max_rank": None if info is None else info.max_rank,
        "num_pages": None if info is None else info.num_pages,
        "pinned": is_pinned,
        "composition": _composition(version, principal),
    }


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
