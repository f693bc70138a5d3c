"""GET /admin/v1/events: what happens to adapters, as server-sent events.

Owns: the framing of these events, and where a client goes on.
Does not know: what happens (`records.py` says it).
"""

from __future__ import annotations

import asyncio

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from motet.server.context import context_of
from motet.server.events import Event, EventLog
from motet.server.replies import CLIENT_LEFT_STATUS, ClientLeftError, unless_client_leaves
from motet.server.services import services_of

KEEP_ALIVE_S = 15.0


async def events(request: Request) -> Response:
    """Events as they come; after `Last-Event-ID`, those first that have come since."""
    log = services_of(request).registry.records.events
    return _Events(log, log.position(request.headers.get("last-event-id")))


class _Events(Response):
    media_type = "text/event-stream"

    def __init__(self, log: EventLog, position: int) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._log = log
        self._position = position

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_client_leaves(receive, self._send_all(send))
        except (ClientLeftError, OSError):
            context_of(scope).status = CLIENT_LEFT_STATUS

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send_chunk(send, b": events of adapters\n\n")  # says at once that it has begun
        coming = self._log.after(self._position)
        following = asyncio.ensure_future(anext(coming, None))
        try:
            while True:
                done, _ = await asyncio.wait({following}, timeout=KEEP_ALIVE_S)
                if not done:
                    await _send_chunk(send, b": keep-alive\n\n")
                    continue
                if (event := following.result()) is None:
                    break
                await _send_chunk(send, self._frame(event))
                following = asyncio.ensure_future(anext(coming, None))
        finally:
            following.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _frame(self, event: Event) -> bytes:
        head = f"id: {self._log.id_of(event)}\nevent: {event.kind}\ndata: "
        return head.encode() + orjson.dumps(event.data) + b"\n\n"


async def _send_chunk(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
