"""GET /admin/v1/memory: where everything is in memory.

Owns: this endpoint.
"""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from motet.server.memory_json import memory_json
from motet.server.services import services_of


async def memory(request: Request) -> Response:
    """Where everything is. Raises MotetError: 503 while the engine is not ready."""
    services = services_of(request)
    services.client.require_ready()
    report = await services.client.memory()
    catalogue = services.registry.catalogue
    body = memory_json(
        report,
        services.client.info,
        policy=services.config.engine.policy,
        num_names=len(catalogue),
        names_of=catalogue.names_of,
    )
    return Response(orjson.dumps(body), media_type="application/json")
