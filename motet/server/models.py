"""GET /v1/models and /v1/models/{id}: the base model first, then every adapter.

Owns: the JSON of a model.
"""

from __future__ import annotations

import time
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from motet.server.catalogue import Adapter
from motet.server.services import Services, services_of

_OWNER = "motet"
_STARTED_AT = int(time.time())


async def list_models(request: Request) -> Response:
    """All names that requests may use as `model`."""
    services = services_of(request)
    adapters = services.registry.catalogue.all()
    models = [_base(services), *(_adapter(services, each) for each in adapters)]
    return _json({"object": "list", "data": models})


async def retrieve_model(request: Request) -> Response:
    """One of them. Raises MotetError (404)."""
    services = services_of(request)
    names = services.registry.names
    adapter = names.resolve(await names.find(request.path_params["model"]))
    return _json(_base(services) if adapter is None else _adapter(services, adapter))


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


def _adapter(services: Services, adapter: Adapter) -> dict[str, Any]:
    info = adapter.info  # what is not read yet is null
    return {
        "id": adapter.name,
        "object": "model",
        "created": adapter.created_at,
        "owned_by": _OWNER,
        "root": str(adapter.path),
        "parent": services.registry.names.base_name,
        "max_model_len": services.client.info.max_model_len,
        "digest": None if info is None else info.digest,
        "max_rank": None if info is None else info.max_rank,
        "num_pages": None if info is None else info.num_pages,
        "pinned": adapter.is_pinned,
    }


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
