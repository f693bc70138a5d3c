"""GET /live, /ready, /health and /metrics.

Owns: what each of them promises.

`/live`: the API process answers; restarting it would help nothing while this is so. `/ready`: the
engine takes requests, with the pinned adapters loaded and those that `--adapter` gave, and the
server does not drain. `/health` is `/ready` under vLLM's name.
"""

from __future__ import annotations

import asyncio

import orjson
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from motet.core.errors import MotetError
from motet.core.messages import EngineStats
from motet.server.engine_client import EngineClient
from motet.server.engine_metrics import Snapshot
from motet.server.services import services_of

_STATS_TIMEOUT_S = 2.0


async def live(_: Request) -> Response:
    """200 as long as the event loop turns."""
    return _status("alive")


async def ready(request: Request) -> Response:
    """200, or 503 with the reason."""
    services = services_of(request)
    services.drain.require_open()
    services.client.require_ready()
    return _status("ready")


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    services = services_of(request)
    client, names = services.client, services.registry.names
    snapshot = Snapshot(
        stats=await _stats(client),
        is_ready=client.unready_reason is None,
        engine_pid=client.pid,
        num_engine_starts=client.num_starts,
        model_name=names.base_name,
        page_size=client.info.page_size,
        num_adapters=len(services.registry.catalogue),
        num_queued_by_tenant=client.queue.num_by_tenant,
        names_of=services.registry.catalogue.names_of,
    )
    services.metrics.update(snapshot)
    body = await asyncio.to_thread(services.metrics.exposition)
    return Response(body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


async def _stats(client: EngineClient) -> EngineStats | None:
    """The engine's snapshot, unless it is down or too busy to answer in time."""
    try:
        return await asyncio.wait_for(client.stats(), _STATS_TIMEOUT_S)
    except (MotetError, TimeoutError):
        return None


def _status(status: str) -> Response:
    return Response(orjson.dumps({"status": status}), media_type="application/json")
