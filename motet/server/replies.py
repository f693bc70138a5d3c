"""Answering a client that may leave at any moment: whole, or as server-sent events.

Owns: the watch for a client's departure, the framing of events, what keeps a silent stream
alive, errors within a stream.
Does not know: what is in the answer.

The watch is one task per request that waits for the disconnect message. Without it a request
that is queued or not streamed would go on for nobody: nothing is sent that could fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NoReturn, Protocol, TypeVar

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from motet.core.errors import MotetError
from motet.server.context import context_of
from motet.server.errors import error_body, internal_error, note_error, status_of

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


class EventFormat(Protocol):
    """How a protocol writes the events of one stream. It may count what it has written."""

    def event(self, value: Any) -> bytes:
        """The frames that say `value`: one, several, or none."""
        ...

    def end(self) -> bytes:
        """The frames after the last value."""
        ...

    def failure(self, error: MotetError) -> bytes:
        """The frames that say that an error has ended the stream; they replace `end`."""
        ...


class PlainEvents:
    """Every value is an event, an error is one too, and `[DONE]` is the last."""

    def event(self, value: Any) -> bytes:
        return frame(value)

    def end(self) -> bytes:
        return b"data: [DONE]\n\n"

    def failure(self, error: MotetError) -> bytes:
        return frame(error_body(error)) + self.end()


def frame(value: Any, name: str | None = None) -> bytes:
    """A server-sent event: `value` as JSON, under an event name if the protocol has those."""
    named = b"" if name is None else b"event: " + name.encode() + b"\n"
    return named + b"data: " + orjson.dumps(value) + b"\n\n"


class EventStream(Response):
    """Server-sent events.

    Args:
        events: JSON values.
        close: called once, whatever ends the stream.
        form: how the protocol writes values, their end, and an error on the way.
        keep_alive_s: a comment goes out whenever there was nothing for so long, lest something
            on the way takes the connection for dead; None is never.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[Any],
        close: Callable[[], None],
        *,
        form: EventFormat | None = None,
        keep_alive_s: float | None = None,
    ) -> None:
        super().__init__(headers=_HEADERS)
        # Of unknown length, so the server sends it in chunks.
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._form = form or PlainEvents()
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_client_leaves(receive, self._send_all(scope, send))
        except (ClientLeftError, OSError):
            context = context_of(scope)
            context.status, context.error_code = CLIENT_LEFT_STATUS, ClientLeftError().code
        finally:
            self._close()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        body = _StreamedBody(send)
        silence = None
        if self._keep_alive_s is not None:
            silence = asyncio.create_task(body.break_silence(self._keep_alive_s))
        try:
            await self._send_events(body, scope)
        finally:
            if silence is not None:  # nothing may follow the end of the body
                silence.cancel()
                await asyncio.gather(silence, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_events(self, body: _StreamedBody, scope: Scope) -> None:
        try:
            async for event in self._events:
                await body.write(self._form.event(event))
            await body.write(self._form.end())
        except OSError:
            raise
        except Exception as error:
            await body.write(self._form.failure(_told(error, scope)))


class _StreamedBody:
    """The body of a response whose length nobody knows yet."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._written_s = time.monotonic()

    async def write(self, frames: bytes) -> None:
        if frames:
            await self._send({"type": "http.response.body", "body": frames, "more_body": True})
            self._written_s = time.monotonic()

    async def break_silence(self, after_s: float) -> NoReturn:
        """Write a comment, which clients skip, whenever nothing was written for `after_s`.

        One task beside each stream: a time-out around each event would cost a task per token.
        """
        while True:
            silent_s = time.monotonic() - self._written_s
            if silent_s < after_s:
                await asyncio.sleep(after_s - silent_s)
            else:
                await self.write(b": keep-alive\n\n")


def _told(error: Exception, scope: Scope) -> MotetError:
    """What the client is told; the status line has gone, so the context keeps the real status."""
    context = context_of(scope)
    if not isinstance(error, MotetError):
        _log.error("unforeseen error in a stream", request_id=context.request_id, exc_info=error)
        error = internal_error(context.request_id)
    context.status = status_of(error)
    note_error(context, error)
    return error
