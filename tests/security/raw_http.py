"""Requests that no client library would send, byte by byte."""

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from tests.server.running_server import RunningServer

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class RawAnswer:
    """What came back; status 0 if the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(orjson.loads(self.body)["error"]["code"])


def raw(
    server: RunningServer,
    request_line: str,
    headers: bytes = b"",
    body: bytes = b"",
    *,
    host: bytes | None = b"localhost",
) -> RawAnswer:
    """Send exactly this, and read until the server closes.

    Args:
        headers: whole lines, each with its end.
        host: the value of the Host header; None leaves it out.
    """
    host_line = b"" if host is None else b"Host: " + host + b"\r\n"
    head = request_line.encode("latin-1") + b"\r\n" + host_line + headers
    return exchange(server, head + b"Connection: close\r\n\r\n" + body)


def exchange(server: RunningServer, content: bytes) -> RawAnswer:
    """Send these bytes on a connection of their own, and read until the server closes."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), TIMEOUT_S) as connection:
        connection.sendall(content)
        received = b""
        while piece := connection.recv(1 << 16):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    return RawAnswer(int(status_line.split()[1]) if status_line else 0, headers, body)
