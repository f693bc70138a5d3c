"""The load and unload endpoints of vLLM and SGLang: their names, bodies and answers.

Owns: these four endpoints. They do what the admin API does (`admin_adapters.py`): a load is a
version that its name means at once, and an unload deletes the name.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from motet.core.errors import MotetError
from motet.server.adapter import Source, SourceType
from motet.server.audit import auditing
from motet.server.context import context_of
from motet.server.deployments import Deployment
from motet.server.parsing import parse, read_json_object
from motet.server.protocol import LoadAdapterRequest, UnloadAdapterRequest
from motet.server.services import Services, services_of
from motet.server.transitions import Fields

_FIELDS = Fields("lora_name", "lora_path", "pinned")


async def load_lora_adapter(request: Request) -> Response:
    """Load an adapter under a new name, or with `load_inplace` replace the one it names."""
    params = parse(LoadAdapterRequest, _without_nulls(await read_json_object(request)))
    await _load(request, params)
    return PlainTextResponse(f"Success: LoRA adapter '{params.lora_name}' added successfully.")


async def unload_lora_adapter(request: Request) -> Response:
    """Forget an adapter's name; requests that run on it end as they began."""
    params = parse(UnloadAdapterRequest, _without_nulls(await read_json_object(request)))
    await _unload(request, params)
    return PlainTextResponse(f"Success: LoRA adapter '{params.lora_name}' removed successfully.")


async def sglang_load_lora_adapter(request: Request) -> Response:
    """As `load_lora_adapter`, in SGLang's words: whatever fails is 400, and said in the body."""
    try:
        params = parse(LoadAdapterRequest, _without_nulls(await read_json_object(request)))
        await _load(request, params)
    except MotetError as error:
        return _sglang_answer(services_of(request), error)
    return _sglang_answer(services_of(request), None)


async def sglang_unload_lora_adapter(request: Request) -> Response:
    """As `unload_lora_adapter`, in SGLang's words: it waits for the running requests."""
    try:
        params = parse(UnloadAdapterRequest, _without_nulls(await read_json_object(request)))
        await (await _unload(request, params))
    except MotetError as error:
        return _sglang_answer(services_of(request), error)
    return _sglang_answer(services_of(request), None)


async def _load(request: Request, params: LoadAdapterRequest) -> None:
    deployment = Deployment(
        params.lora_name,
        Source(SourceType.PATH, params.lora_path),
        pin=params.pinned,
        may_replace=params.load_inplace,
        created_by=context_of(request.scope).principal.key_id,
        keeps_failure=False,
        fields=_FIELDS,
    )
    with auditing(request, "adapter.load", adapter=params.lora_name):
        operation = await services_of(request).admin.deployments.start(deployment)
        await operation.wait()


async def _unload(request: Request, params: UnloadAdapterRequest) -> asyncio.Task[bool]:
    services = services_of(request)
    with auditing(request, "adapter.delete", adapter=params.lora_name):
        return await services.admin.changes.delete(
            params.lora_name,
            None,
            force=False,
            drain_timeout_s=services.config.drain_timeout_s,
            param=_FIELDS.name,
        )


def _sglang_answer(services: Services, error: MotetError | None) -> Response:
    loaded = {
        version.name: os.fspath(version.path)
        for adapter in services.registry.catalogue.all()
        if (version := adapter.main) is not None and version.path and version.digest
    }
    body = {
        "success": error is None,
        "error_message": "" if error is None else error.message,
        "loaded_adapters": loaded,
    }
    return Response(
        orjson.dumps(body),
        status_code=200 if error is None else 400,
        media_type="application/json",
    )


def _without_nulls(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}
