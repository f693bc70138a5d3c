"""Tricks below the application: requests within requests, and clients that never finish."""

import contextlib
import socket
import time
from urllib.parse import urlsplit

import pytest

from tests.security.raw_http import exchange
from tests.server.running_server import RunningServer

POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SECOND = b"GET /admin/v1/memory HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        b"Content-Length: 6\r\nContent-Length: 60\r\n",
        b"Content-Length: 6, 60\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: +6\r\n",
        b"Content-Length: 0x6\r\n",
        b"Content-Length: 6 \x0b\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n",
        b"Content-Length:\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: identity\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 6\r\n Transfer-Encoding: chunked\r\n",
        b"X: y\nContent-Length: 6\r\n",
        b"\x00Content-Length: 6\r\n",
    ],
)
def test_two_readers_cannot_disagree_where_a_request_ends(
    server: RunningServer, lengths: bytes
) -> None:
    """Refused and closed, or else there is one answer: the request that hides is not read."""
    answer = exchange(server, POST + lengths + b"\r\n0\r\n\r\n" + SECOND)
    assert answer.status in (400, 413), answer
    assert b"HTTP/1.1" not in answer.body
    assert b"fragmentation" not in answer.body


@pytest.mark.parametrize(
    "chunks",
    [
        b"10000000000000000\r\n{}",
        b"-1\r\n{}",
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
        b"2\n{}\r\n0\r\n\r\n",
        b"2\r\n{}X\r\n0\r\n\r\n",
        b"zz\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_chunks_that_lie_about_their_size(server: RunningServer, chunks: bytes) -> None:
    head = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = exchange(server, head + chunks + b"\r\n" * 100)
    assert answer.status in (400, 413, 431), answer
    assert server.get("/live").status_code == 200


def test_what_follows_the_body_is_another_request(server: RunningServer) -> None:
    body = b'{"model": "none", "prompt": "x"}'
    head = POST + f"Content-Length: {len(body)}\r\n\r\n".encode()
    answer = exchange(server, head + body + SECOND)
    assert answer.status == 404  # of the first
    assert b"HTTP/1.1 200" in answer.body  # the second's: with its own key it would have one


@pytest.mark.parametrize(
    "trailer", [b"Authorization: Bearer the-api-key", b"X-Request-Id: mine", b"Host: localhost"]
)
def test_what_stands_after_the_body_is_no_header(guarded: RunningServer, trailer: bytes) -> None:
    head = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = exchange(guarded, head + b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n\r\n")
    assert answer.status == 401
    assert answer.headers["x-request-id"] != "mine"


def test_what_stands_after_the_body_is_bounded(server: RunningServer) -> None:
    head = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n"
    trailers = b"X: " + b"x" * 10_000 + b"\r\n"
    assert exchange(server, head + trailers * 10 + b"\r\n").status in (400, 431)


def test_hundreds_of_idle_clients_hold_nobody_up(server: RunningServer) -> None:
    """Slow ones: half a request line, half the headers, half a body."""
    address = urlsplit(server.url)
    beginnings = (b"", b"GET /v1/mod", POST, POST + b"Content-Length: 100\r\n\r\n{")
    with contextlib.ExitStack() as stack:
        for i in range(300):
            client = socket.create_connection((address.hostname, address.port), 10)
            stack.callback(client.close)
            client.sendall(beginnings[i % len(beginnings)])
        for _ in range(5):
            assert server.get("/live").status_code == 200
            assert server.complete("x").status_code == 200


def test_clients_that_vanish_in_the_middle_leave_no_connection(server: RunningServer) -> None:
    address = urlsplit(server.url)
    for beginning in (POST + b"Content-Length: 100\r\n\r\n{", POST):
        for _ in range(50):
            with socket.create_connection((address.hostname, address.port), 10) as client:
                client.sendall(beginning)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.complete("x").status_code != 200:
        time.sleep(0.05)
    assert server.complete("x").status_code == 200
