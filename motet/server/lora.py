"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter: vLLM's names, bodies and answers.

Owns: these two endpoints, and a log line for each use of them.
"""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from motet.server.context import context_of
from motet.server.parsing import parse, read_json_object
from motet.server.protocol import LoadAdapterRequest, UnloadAdapterRequest
from motet.server.services import services_of

_log = structlog.get_logger()


async def load_lora_adapter(request: Request) -> Response:
    """Load an adapter under a new name, or with `load_inplace` replace the one it names."""
    params = parse(LoadAdapterRequest, _without_nulls(await read_json_object(request)))
    adapter = await services_of(request).registry.load(
        params.lora_name,
        params.lora_path,
        load_inplace=params.load_inplace,
        pinned=params.pinned,
    )
    _log.info(
        "adapter loaded",
        request_id=context_of(request.scope).request_id,
        adapter=adapter.name,
        digest=adapter.digest,
        pinned=adapter.is_pinned,
    )
    return PlainTextResponse(f"Success: LoRA adapter '{adapter.name}' added successfully.")


async def unload_lora_adapter(request: Request) -> Response:
    """Forget an adapter's name; requests that run on it end as they began."""
    params = parse(UnloadAdapterRequest, _without_nulls(await read_json_object(request)))
    await services_of(request).registry.unload(params.lora_name)
    _log.info(
        "adapter unloaded",
        request_id=context_of(request.scope).request_id,
        adapter=params.lora_name,
    )
    return PlainTextResponse(f"Success: LoRA adapter '{params.lora_name}' removed successfully.")


def _without_nulls(body: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}
