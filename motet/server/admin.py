"""The routes below /admin/v1: pins, and where everything is in memory.

Owns: these endpoints, and a log line for each change.
"""

from __future__ import annotations

from typing import Any

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response

from motet.server.catalogue import Adapter
from motet.server.context import context_of
from motet.server.memory_json import memory_json
from motet.server.parsing import require_json
from motet.server.services import services_of

_log = structlog.get_logger()


async def pin_adapter(request: Request) -> Response:
    """Keep an adapter on the device; answers once it is there. Raises MotetError."""
    require_json(request)
    adapter = await services_of(request).registry.pin(request.path_params["name"])
    return _changed(request, adapter)


async def unpin_adapter(request: Request) -> Response:
    """Let an adapter be evicted again. Raises MotetError."""
    require_json(request)
    adapter = await services_of(request).registry.unpin(request.path_params["name"])
    return _changed(request, adapter)


async def memory(request: Request) -> Response:
    """Where everything is. Raises MotetError: 503 while the engine is not ready."""
    services = services_of(request)
    services.client.require_ready()
    report = await services.client.memory()
    catalogue = services.registry.catalogue
    return _json(
        memory_json(
            report,
            services.client.info,
            num_names=len(catalogue),
            names_of=catalogue.names_of,
        )
    )


def _changed(request: Request, adapter: Adapter) -> Response:
    _log.info(
        "adapter pinned" if adapter.is_pinned else "adapter unpinned",
        request_id=context_of(request.scope).request_id,
        adapter=adapter.name,
        digest=adapter.digest,
    )
    return _json({"name": adapter.name, "digest": adapter.digest, "pinned": adapter.is_pinned})


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
