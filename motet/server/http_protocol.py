"""uvicorn's HTTP protocol with a bound on the size of a request's headers.

Owns: this bound, which uvicorn has for its slower parser only.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 << 10

_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


class BoundedHttpProtocol(HttpToolsProtocol):
    """Closes a connection whose headers do not end in time.

    What is counted comes from the socket in pieces of up to 256 KiB, so that much more may pass.
    """

    _reads_headers = False
    _num_header_bytes = 0

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
