"""Answering a client that may leave at any moment: whole, or as server-sent events.

Owns: the watch for a client's departure, the framing of events, errors within a stream.
Does not know: what is in the answer.

The watch is one task per request that waits for the disconnect message. Without it a request
that is queued or not streamed would go on for nobody: nothing is sent that could fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from motet.core.errors import MotetError
from motet.server.context import context_of
from motet.server.errors import error_body, internal_error, status_of

CLIENT_LEFT_STATUS = 499

_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold the events back
}

ResultT = TypeVar("ResultT")

_log = structlog.get_logger()


class ClientLeftError(MotetError):
    """The client closed the connection; there is nobody to answer."""

    def __init__(self) -> None:
        super().__init__("The client closed the connection.", code="client_closed_request")


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled if the client leaves first.

    The request's body must have been read. Raises ClientLeftError.
    """
    worker = asyncio.create_task(work)
    watcher = asyncio.create_task(_client_leaves(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientLeftError
        return worker.result()
    finally:
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, ended by `[DONE]`.

    Args:
        events: JSON values; a MotetError on the way becomes an error event.
        close: called once, whatever ends the stream.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[Any], close: Callable[[], None]) -> None:
        super().__init__(headers=_HEADERS)
        # Of unknown length, so the server sends it in chunks.
        del self.headers["content-length"]
        self._events = events
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_client_leaves(receive, self._send_all(scope, send))
        except (ClientLeftError, OSError):
            context = context_of(scope)
            context.status, context.error_code = CLIENT_LEFT_STATUS, ClientLeftError().code
        finally:
            self._close()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            async for event in self._events:
                await _send_chunk(send, _frame(event))
        except OSError:
            raise
        except Exception as error:
            await _send_chunk(send, _frame(_error_event(error, scope)))
        await _send_chunk(send, b"data: [DONE]\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _error_event(error: Exception, scope: Scope) -> Any:
    """What the client is told; the status line has gone, so the context keeps the real status."""
    context = context_of(scope)
    if not isinstance(error, MotetError):
        _log.error("unforeseen error in a stream", request_id=context.request_id, exc_info=error)
        error = internal_error(context.request_id)
    context.status, context.error_code = status_of(error), error.code
    return error_body(error)


def _frame(event: Any) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"


async def _send_chunk(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
