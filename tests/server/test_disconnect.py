"""Clients that leave: the engine must hear of it, whatever the request was doing."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from openai import AsyncOpenAI

from motet.server import http_protocol, token_stream
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer, wait_until

ENDLESS = {"model": BASE, "prompt": "abc", "max_tokens": 400}


@contextmanager
def sent_request(server: RunningServer, **params: object) -> Iterator[socket.socket]:
    """A raw connection with one request on it, closed at the end of the block."""
    address = urlsplit(server.url)
    body = json.dumps(ENDLESS | params).encode()
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        yield connection


def request_ids(server: RunningServer, kind: str) -> set[str]:
    return {event["request_id"] for event in server.events(kind)}


def assert_all_aborted(server: RunningServer, num_requests: int) -> None:
    wait_until(lambda: len(request_ids(server, "AddRequest")) == num_requests)
    wait_until(lambda: request_ids(server, "AbortRequest") == request_ids(server, "AddRequest"))
    assert len(server.events("AbortRequest")) == num_requests
    assert server.started.client.num_in_flight == 0
    assert 'status="499"' in server.get("/metrics").text


def test_a_stream_that_is_left_is_aborted(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02}) as server:
        with sent_request(server, stream=True) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert_all_aborted(server, 1)


def test_an_answer_that_nobody_waits_for_is_aborted(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02}) as server:
        with sent_request(server, n=3):
            wait_until(lambda: server.events("AddRequest"))
        assert_all_aborted(server, 3)


@pytest.mark.parametrize("stream", [False, True])
def test_a_queued_request_that_is_left_is_aborted(start_server: StartServer, stream: bool) -> None:
    """Nothing has been sent to its client, and nothing will be for a long time."""
    with start_server(engine={"step_s": 0.02, "max_running": 0}) as server:
        with sent_request(server, stream=stream):
            wait_until(lambda: server.events("AddRequest"))
        assert_all_aborted(server, 1)


def test_a_storm_of_leaving_clients_leaves_nothing_behind(start_server: StartServer) -> None:
    """Each leaves after a number of chunks of its own."""

    async def leave_after(client: AsyncOpenAI, num_chunks: int) -> None:
        stream = await client.completions.create(**ENDLESS, stream=True)
        for _ in range(num_chunks):
            await anext(stream)
        await stream.close()

    async def run(url: str) -> None:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            await asyncio.gather(*(leave_after(client, index % 5 + 1) for index in range(40)))

    with start_server(engine={"step_s": 0.02}) as server:
        asyncio.run(run(server.url))
        assert_all_aborted(server, 40)
        assert server.complete().status_code == 200


def test_a_slow_reader_gets_everything_and_holds_nobody_up(start_server: StartServer) -> None:
    with start_server() as server, sent_request(server, stream=True) as connection:
        wait_until(lambda: server.events("AddRequest"))
        for _ in range(3):
            assert server.complete().status_code == 200
        received = b""
        while b"[DONE]" not in received:
            received += connection.recv(1 << 16)
        assert received.count(b'"text"') == 400


def test_an_engine_that_is_far_ahead_makes_no_reader_slow(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens come faster than anybody could turn them into text."""
    monkeypatch.setattr(token_stream, "MAX_UNREAD_OUTPUTS", 8 * 128)
    with start_server() as server:
        answer = server.complete(["abc"] * 8, n=16, max_tokens=300)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 38_400


def test_one_that_is_too_slow_is_aborted_and_told(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads nothing until its buffers are full and the server's too."""
    monkeypatch.setattr(token_stream, "MAX_UNREAD_OUTPUTS", 100)
    engine = {"max_model_len": 1 << 16}
    with start_server(engine=engine) as server:
        many = {"stream": True, "n": 16, "max_tokens": 15_000}
        with sent_request(server, **many) as connection:
            wait_until(lambda: server.events("AddRequest"))
            wait_until(lambda: len(server.events("AbortRequest")) == 16)
            assert server.started.client.num_in_flight == 0
            received = b""
            while b"[DONE]" not in received[-100:]:
                received += connection.recv(1 << 20)
        assert b"client_too_slow" in received[-1000:]
        wait_until(lambda: 'code="client_too_slow"} 1.0' in server.get("/metrics").text)


def test_one_that_stops_reading_loses_its_connection(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "STALLED_AFTER_S", 0.2)
    with start_server(engine={"max_model_len": 1 << 16}) as server:
        many = {"stream": True, "n": 16, "max_tokens": 15_000}
        with sent_request(server, **many):
            wait_until(lambda: len(server.events("AddRequest")) == 16)
            assert_all_aborted(server, 16)


def test_a_client_that_leaves_while_it_sends_its_body(server: RunningServer) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
    wait_until(lambda: 'model="",status="499"' in server.get("/metrics").text)
    assert server.complete().status_code == 200
