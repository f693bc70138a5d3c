"""Bounds below the application: each is exceeded, and the refusal is OpenAI's error object."""

import contextlib
import json
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from motet.server import file_limits, http_protocol
from motet.server.http_protocol import MAX_HEADER_BYTES, MAX_HEADERS, MAX_URL_BYTES
from tests.server.conftest import StartServer
from tests.server.running_server import RunningServer

HOST = "Host: localhost\r\n"


@contextmanager
def connected(server: RunningServer) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(1 << 16):
        received += piece
    return received


def answer(server: RunningServer, request: str) -> bytes:
    """All that comes until the server closes the connection."""
    with connected(server) as connection:
        connection.sendall(request.encode("latin-1"))
        return read_all(connection)


def assert_refused(received: bytes, status: int, code: str) -> None:
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received
    assert b"x-request-id" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code


def get(path: str, headers: str = "") -> str:
    return f"GET {path} HTTP/1.1\r\n{HOST}{headers}Connection: close\r\n\r\n"


def test_urls(server: RunningServer) -> None:
    longest = "/live?" + "x" * (MAX_URL_BYTES - len("/live?"))
    assert answer(server, get(longest)).startswith(b"HTTP/1.1 200 ")
    assert_refused(answer(server, get(longest + "x")), 414, "url_too_long")


def test_headers_by_number(server: RunningServer) -> None:
    most = "".join(f"x-{number}: 1\r\n" for number in range(MAX_HEADERS - 2))
    assert answer(server, get("/live", most)).startswith(b"HTTP/1.1 200 ")
    received = answer(server, get("/live", most + "x-one-more: 1\r\n"))
    assert_refused(received, 431, "headers_too_large")


def test_headers_by_size(server: RunningServer) -> None:
    room = MAX_HEADER_BYTES - len("HostlocalhostConnectionclosex-a")
    assert answer(server, get("/live", f"x-a: {'x' * room}\r\n")).startswith(b"HTTP/1.1 200 ")
    received = answer(server, get("/live", f"x-a: {'x' * (room + 1)}\r\n"))
    assert_refused(received, 431, "headers_too_large")


@pytest.mark.parametrize(
    "request_text",
    [
        "hello\r\n\r\n",
        "GET /live HTTP/9.9\r\n\r\n",
        "GET /live HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /live HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /l\xefve HTTP/1.1\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http(server: RunningServer, request_text: str) -> None:
    assert_refused(answer(server, request_text), 400, "invalid_http")


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("", False),  # a connection that was opened for later
        ("GET /live HTTP/1.1\r\nHost: loc", True),
        (f"POST /v1/completions HTTP/1.1\r\n{HOST}Content-Length: 9\r\n\r\n", True),
        (
            f"POST /v1/completions HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
            True,
        ),
    ],
)
def test_requests_that_do_not_come_to_an_end(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, sent: str, answered: bool
) -> None:
    monkeypatch.setattr(http_protocol, "RECEIVE_TIMEOUT_S", 0.2)
    received = answer(server, sent)
    if answered and "application/json" not in sent and "POST" in sent:
        assert received.startswith(b"HTTP/1.1 415 ")  # it was refused before its body was read
    elif answered:
        assert_refused(received, 408, "request_timeout")
    else:
        assert received == b""


def test_a_body_that_drips_holds_no_connection_for_ever(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even after it has been refused, when nobody reads it any more."""
    monkeypatch.setattr(http_protocol, "RECEIVE_TIMEOUT_S", 0.3)
    request = f"POST /nothing HTTP/1.1\r\n{HOST}Content-Length: 9999\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(request.encode())
        received = connection.recv(1 << 16)
        with contextlib.suppress(ConnectionError):
            for _ in range(9999):
                connection.sendall(b"x")
                if select.select([connection], [], [], 0.02)[0]:
                    piece = connection.recv(1 << 16)
                    if not piece:
                        break
                    received += piece
            else:
                pytest.fail("the connection stayed open")
        assert received.startswith(b"HTTP/1.1 404 ")
        assert received.count(b"HTTP/1.1") == 1


def test_an_answer_may_take_longer_than_a_request(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "RECEIVE_TIMEOUT_S", 0.2)
    with start_server(engine={"step_s": 0.02}) as server:
        assert server.complete(max_tokens=30).status_code == 200
        body = {"model": "tiny", "prompt": "a", "max_tokens": 30, "stream": True}
        assert server.post("/v1/completions", body).text.endswith("data: [DONE]\n\n")


def test_connections(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.http.close()
    monkeypatch.setattr(http_protocol, "max_connections", lambda: 2)
    with connected(server) as first, connected(server):
        with connected(server) as third:
            assert_refused(read_all(third), 503, "too_many_connections")
        first.sendall(get("/live").encode())
        assert read_all(first).startswith(b"HTTP/1.1 200 ")
    assert answer(server, get("/live")).startswith(b"HTTP/1.1 200 ")


def test_connections_leave_files_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [1024, 4096]
    changes: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: changes.append(new))
    assert file_limits.max_connections() == 1024 - 128
    file_limits.raise_file_limit()
    assert changes == [(4096, 4096)]
    limits[:] = [100_000, resource.RLIM_INFINITY]
    file_limits.raise_file_limit()
    assert len(changes) == 1  # it is high enough
    limits[:] = [64, 64]
    assert file_limits.max_connections() == 32
