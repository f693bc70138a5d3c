"""Deadlines in each phase of a request; afterwards nothing of it is left."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from openai import APIStatusError, OpenAI
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from motet.core.errors import MotetError
from motet.server import deadline_middleware, token_stream
from motet.server.config import ServeConfig
from motet.server.context import RequestContext, put_context
from motet.server.deadline import requested_timeout_s
from motet.server.deadline_middleware import DeadlineMiddleware
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer, wait_until

SHORT = {"x-request-timeout": "0.3"}


def assert_timed_out(response: httpx2.Response) -> None:
    assert response.status_code == 504
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("timeout", "server_error")


def assert_all_gone(server: RunningServer, num_sequences: int = 1) -> None:
    ids = {event["request_id"] for event in server.events("AddRequest")}
    wait_until(lambda: {each["request_id"] for each in server.events("AbortRequest")} == ids)
    assert len(ids) == num_sequences
    assert server.started.client.num_in_flight == 0
    assert len(server.started.client.queue) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_in_the_queue(start_server: StartServer, stream: bool) -> None:
    with start_server(engine={"step_s": 0.02, "max_running": 0}) as server:
        body = {"model": BASE, "prompt": "abc", "stream": stream, "n": 3}
        assert_timed_out(server.post("/v1/completions", body, headers=SHORT))
        assert_all_gone(server, 3)


def test_in_prefill(start_server: StartServer) -> None:
    """The first step takes longer than there is time."""
    with start_server(engine={"step_s": 1.5}) as server:
        body = {"model": BASE, "prompt": "abc"}
        assert_timed_out(server.post("/v1/completions", body, headers=SHORT))
        assert_all_gone(server)


def test_in_decode(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02}) as server:
        body = {"model": BASE, "messages": [{"role": "user", "content": "abc"}]}
        assert_timed_out(server.post("/v1/chat/completions", body, headers=SHORT))
        assert_all_gone(server)


def test_in_a_stream_it_is_the_last_event(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02}) as server:
        body = {"model": BASE, "prompt": "abc", "max_tokens": 400, "stream": True}
        response = server.post("/v1/completions", body, headers=SHORT)
        assert response.status_code == 200
        events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert 2 < len(events) < 100
        assert json.loads(events[0])["choices"]
        assert json.loads(events[-2])["error"]["code"] == "timeout"
        assert events[-1] == "[DONE]"
        assert_all_gone(server)
        assert 'status="504"' in server.get("/metrics").text


def test_in_the_load_of_an_adapter(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(engine={"load_s": 1.0}, adapter_dir=adapters_dir) as server:
        body = {"model": "red", "prompt": "abc"}
        assert_timed_out(server.post("/v1/completions", body, headers=SHORT))
        assert server.events("AddRequest") == []
        # The load went on, for others may want it.
        assert server.post("/v1/completions", body).status_code == 200
        assert len(server.events("LoadAdapter")) == 1


def test_in_a_body_that_does_not_end(start_server: StartServer) -> None:
    with start_server() as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nx-request-timeout: 0.3\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 504 ")


def test_at_a_client_that_does_not_read(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is free at the deadline, the connection a little later."""
    monkeypatch.setattr(deadline_middleware, "_LAST_WORDS_S", 0.2)
    monkeypatch.setattr(token_stream, "MAX_UNREAD_OUTPUTS", 1 << 20)
    engine = {"step_s": 0.0001, "max_model_len": 40_000, "num_pages": 10_000}
    with start_server(engine=engine) as server:
        address = urlsplit(server.url)
        body = {"model": BASE, "prompt": "abc", "max_tokens": 39_000, "stream": True, "n": 4}
        content = json.dumps(body).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((address.hostname, address.port))
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nx-request-timeout: 0.5\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(content), content)
            )
            wait_until(lambda: 'status="504"' in server.get("/metrics").text)
            assert server.started.client.num_in_flight == 0
            assert 'motet_errors_total{code="timeout"} 1.0' in server.get("/metrics").text


def test_the_cap_of_the_queue_is_on_the_first_token_alone(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02}, max_queue_time_s=0.4) as server:
        assert server.complete(max_tokens=60).status_code == 200  # 1.2 s
    with start_server(engine={"max_running": 0}, max_queue_time_s=0.2) as server:
        assert_timed_out(server.complete())


def test_the_cap_of_requests_is_for_those_that_say_nothing(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02}, max_request_time_s=0.3) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with client, pytest.raises(APIStatusError) as caught:
            client.completions.create(model=BASE, prompt="abc", max_tokens=400)
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        response = server.complete(max_tokens=1)
        assert response.status_code == 200
        headers = {"x-request-timeout": "0.31"}
        response = server.post("/v1/completions", {"model": BASE, "prompt": "a"}, headers=headers)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "x-request-timeout"


def test_in_time_nothing_is_noticed(start_server: StartServer) -> None:
    with start_server() as server:
        headers = {"x-request-timeout": "20"}
        body = {"model": BASE, "prompt": "abc", "max_tokens": 5}
        answer = server.post("/v1/completions", body, headers=headers)
        assert answer.json()["usage"]["completion_tokens"] == 5
        # Elsewhere the header means nothing.
        assert server.get("/v1/models", headers={"x-request-timeout": "x"}).status_code == 200


@pytest.mark.parametrize(
    "text", ["0", "0.0", "-1", "nan", "inf", "1e3", "x", "", "61", "1 2", "1²"]
)
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(MotetError, match="x-request-timeout"):
        requested_timeout_s(Headers({"x-request-timeout": text}), 60)


@pytest.mark.parametrize(("text", "seconds"), [("1", 1), ("0.5", 0.5), (" 60 ", 60), ("07", 7)])
def test_what_is_a_time(text: str, seconds: float) -> None:
    assert requested_timeout_s(Headers({"x-request-timeout": text}), 60) == seconds
    assert requested_timeout_s(Headers({}), 60) == 60


def test_a_time_out_of_the_applications_own_is_not_taken_for_the_deadline() -> None:
    async def run() -> None:
        async def app(*_: Any) -> None:
            raise TimeoutError("its own")

        middleware = DeadlineMiddleware(app, ServeConfig())
        scope = {"type": "http", "headers": []}
        put_context(scope, RequestContext("id", is_generation=True))
        await middleware(scope, app, app)

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(run())


def test_an_answer_that_begins_as_time_runs_out_does_not_begin_twice() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    scope: Scope = {"type": "http", "headers": [(b"x-request-timeout", b"0.05")]}
    put_context(scope, RequestContext("id", is_generation=True))
    asyncio.run(DeadlineMiddleware(app, ServeConfig())(scope, receive, send))
    assert [each.get("status") for each in sent] == [504, None]
