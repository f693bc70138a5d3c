"""Sends one request and reads its streamed answer.

Owns: connections, and what becomes of each answer: finished, refused, or failed.
Does not know: when requests are sent, and how they are reported.

geventhttpclient gives lines as they come; `requests` would wait until a piece is full, or take
every byte by itself. It does not send a POST a second time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPSocketResponse

from benchmarks.locust_load.ask import Ask
from motet.bench.sse import Stream, StreamReader

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_TIMEOUT_S = 120.0

# More than file descriptors allow: the pool is never what holds a request back.
_MAX_CONNECTIONS = 1 << 16

# For what comes after the end of a stream, so that its connection can be used again.
_TAIL_S = 1.0

_MAX_ERROR_BYTES = 300


@dataclass(frozen=True)
class Finished:
    """All of the answer came."""

    stream: Stream


@dataclass(frozen=True)
class Refused:
    """The server has no room for it now."""

    retry_after_s: float


@dataclass(frozen=True)
class Failed:
    """Anything else."""

    reason: str


Outcome = Finished | Refused | Failed


class Client:
    """Connections to one server, each for a request at a time: one that is free, or a new one.

    Args:
        host: its URL.
    """

    def __init__(self, host: str) -> None:
        self._path = urlsplit(host).path
        self._http = HTTPClient.from_url(
            host,
            concurrency=_MAX_CONNECTIONS,
            connection_timeout=_CONNECT_TIMEOUT_S,
            network_timeout=_SILENCE_TIMEOUT_S,
        )

    def send(self, ask: Ask, reader: StreamReader) -> Outcome:
        """Ask, and read the answer to its end. What the reader has got by then stays in it."""
        try:
            with self._http.request(
                "POST", self._path + ask.path, ask.body, ask.headers
            ) as response:
                if response.status_code == HTTPStatus.OK:
                    return Finished(_read(response, reader))
                return _no_answer(response)
        except Exception as error:  # whatever a server does, it does not end the load test
            return Failed(f"{type(error).__name__}: {error}")


def _read(response: HTTPSocketResponse, reader: StreamReader) -> Stream:
    for line in _lines(response):
        if reader.feed(line):
            break
    stream = reader.result()
    with gevent.Timeout(_TAIL_S, exception=False):
        response.read()
    return stream


def _lines(response: HTTPSocketResponse) -> Iterator[bytes]:
    while line := response.readline(b"\n"):
        yield line.rstrip(b"\r\n")


def _no_answer(response: HTTPSocketResponse) -> Outcome:
    retry_after = response.get("retry-after")
    if response.status_code in _REFUSALS and isinstance(retry_after, str):
        response.read()
        return Refused(_seconds(retry_after))
    text = response.read(_MAX_ERROR_BYTES).decode(errors="replace")
    return Failed(f"HTTP {response.status_code}: {text}")


_REFUSALS = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)


def _seconds(retry_after: str) -> float:
    """The header's seconds; none if it is a date, or no time at all."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < math.inf else 0.0
