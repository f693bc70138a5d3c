"""uvicorn's HTTP protocol with bounds on what a client may cost without doing its part.

Owns: the size of URL and headers, the time in which a request must have come, the number of
connections, that refusals at this level are OpenAI's error object too, and the time that a client
may take to read anything of what was sent to it.
Does not know: routes, keys, and bodies, whose size `middleware.py` bounds.
"""

from __future__ import annotations

import asyncio
import uuid
from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from motet.core.errors import MotetError
from motet.server.errors import error_body, status_of
from motet.server.file_limits import max_connections

MAX_URL_BYTES = 8 << 10
MAX_HEADER_BYTES = 64 << 10
MAX_HEADERS = 100

# From a connection's or a request's first byte to the last of its body.
RECEIVE_TIMEOUT_S = 60.0
# Without reading any of what waits for it.
STALLED_AFTER_S = 60.0


class BoundedHttpProtocol(HttpToolsProtocol):
    """Refuses what is too large, and closes connections whose clients do not do their part.

    That is to have a request come to an end, and to read. A client stalls when what is written to
    it fills its socket's buffers and 64 KiB more, and it then does not read most of these 64 KiB
    for a minute. Its connection is aborted, which whoever answers it sees as its departure.
    """

    _reads_headers = False
    _num_header_bytes = 0
    _refusal: MotetError | None = None
    _receive_timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > max_connections():
            self._refuse(_error("The server has too many connections.", "too_many_connections"))
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._end_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(STALLED_AFTER_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def on_message_begin(self) -> None:
        self._reads_headers = True
        self._num_header_bytes = 0
        self._start_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._stop_parsing(f"The URL is longer than {MAX_URL_BYTES} bytes.", "url_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reads_headers:
            super().on_header(name, value)
        # else it stands after the body, where it is no header: whoever checked those before, a
        # proxy perhaps, has not seen it.
        self._num_header_bytes += len(name) + len(value)
        if self._num_header_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
            self._stop_parsing(
                f"The headers are more than {MAX_HEADERS}, or larger than {MAX_HEADER_BYTES} "
                "bytes.",
                "headers_too_large",
            )

    def on_headers_complete(self) -> None:
        self._reads_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        had_begun = self._reads_headers
        super().data_received(data)
        # A header that does not end is told by nobody. What comes is in pieces of up to 256 KiB.
        if had_begun and self._reads_headers and not self.transport.is_closing():
            self._num_header_bytes += len(data)
            if self._num_header_bytes > MAX_HEADER_BYTES:
                self._refuse(_error("The headers do not end.", "headers_too_large"))

    def send_400_response(self, msg: str) -> None:
        """What the parser stopped at, by itself or told to by one of the bounds."""
        self._refuse(self._refusal or _error(msg, "invalid_http"))

    def _stop_parsing(self, message: str, code: str) -> None:
        self._refusal = _error(message, code)
        raise ValueError(message)  # the parser stops at it, and has `send_400_response` called

    def _start_timer(self) -> None:
        self._stop_timer()
        self._receive_timer = self.loop.call_later(RECEIVE_TIMEOUT_S, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _on_timeout(self) -> None:
        if self.pipeline:  # not read on until the request before it has been answered
            self._start_timer()
        elif self._reads_headers or self.cycle is not None:
            self._refuse(
                _error(
                    f"The request did not come within {RECEIVE_TIMEOUT_S:g} seconds.",
                    "request_timeout",
                )
            )
        else:  # nothing was ever asked, so there is nothing to answer
            self.transport.close()

    def _refuse(self, error: MotetError) -> None:
        """Close the connection, and say why if nothing else is being said on it."""
        if self._reads_headers:  # the last cycle is of the request before this one
            may_speak = self.cycle is None or self.cycle.response_complete
        else:
            may_speak = self.cycle is None or not self.cycle.response_started
        if may_speak:
            self.transport.write(_raw_response(error))
        self.transport.close()


def _error(message: str, code: str) -> MotetError:
    return MotetError(message, code=code)


def _raw_response(error: MotetError) -> bytes:
    status = status_of(error)
    body = orjson.dumps(error_body(error))
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"x-request-id: {uuid.uuid4().hex}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
