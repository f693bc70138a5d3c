"""uvicorn's HTTP protocol with bounds on what a client may cost without doing its part.

Owns: the bound on the size of a request's headers, which uvicorn has for its slower parser only,
and the time that a client may take to read anything of what was sent to it.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 << 10
STALLED_AFTER_S = 60.0

_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


class BoundedHttpProtocol(HttpToolsProtocol):
    """Closes a connection whose headers do not end in time, or whose client has stopped reading.

    What is counted comes from the socket in pieces of up to 256 KiB, so that much more may pass.

    A client stalls when what is written to it fills its socket's buffers and 64 KiB more, and it
    then does not read most of these 64 KiB for a minute. Its connection is aborted, which whoever
    answers it sees as its departure.
    """

    _reads_headers = False
    _num_header_bytes = 0
    _stall: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(STALLED_AFTER_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_stall()
        super().connection_lost(exc)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def on_message_begin(self) -> None:
        self._reads_headers = True
        self._num_header_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._reads_headers = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._reads_headers:
            self._num_header_bytes += len(data)
            if self._num_header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.transport.write(_REFUSAL)
                self.transport.close()
