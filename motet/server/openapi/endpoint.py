"""GET /openapi.json.

Owns: this endpoint.
Does not know: what is in the document (`document.py`).
"""

from __future__ import annotations

import asyncio
from functools import cache

import orjson
from starlette.requests import Request
from starlette.responses import Response

from motet.server.openapi.document import document
from motet.server.services import services_of


async def openapi(request: Request) -> Response:
    """The description of all routes."""
    is_lenient = services_of(request).config.lenient_parameters
    # In a thread, for it takes long enough to hold up everybody's tokens.
    body = await asyncio.to_thread(_encoded, is_lenient)
    return Response(body, media_type="application/json")


@cache
def _encoded(is_lenient: bool) -> bytes:
    return orjson.dumps(document(is_lenient=is_lenient))
