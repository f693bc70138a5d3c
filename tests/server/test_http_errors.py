"""Every refusal: its status, code and parameter, always as OpenAI's error object."""

import contextlib
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer

JSON = {"Content-Type": "application/json"}
USER = {"role": "user", "content": "hello"}


def assert_error(
    response: httpx2.Response, status: int, code: str, param: str | None
) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    return error


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_have_a_status_streamed_or_not(
    server: RunningServer, path: str, stream: bool
) -> None:
    body = {"model": "green", "prompt": "x", "messages": [USER], "stream": stream}
    del body["messages" if path == "/v1/completions" else "prompt"]
    assert_error(server.post(path, body), 404, "model_not_found", "model")
    assert_error(server.post(path, body | {"zzz": 1}), 400, "unknown_parameter", "zzz")
    assert_error(server.post(path, body | {"n": 99}), 400, "invalid_value", "n")
    assert_error(server.post(path, body | {"audio": {}}), 400, "unsupported_parameter", "audio")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"model": "tiny", }',
        b"\xff\xfe",
        b'{"model": "\\ud800"}',
        b"[" * 100_000,
        b'{"n": 1' + b"0" * 5000 + b"}",
    ],
)
def test_malformed_json(server: RunningServer, content: bytes) -> None:
    response = server.post("/v1/completions", content=content, headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"]["code"] in ("invalid_json", "missing_required_parameter")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_know_are_named(server: RunningServer, number: str) -> None:
    content = f'{{"model": "tiny", "prompt": "x", "temperature": {number}}}'
    response = server.post("/v1/completions", content=content, headers=JSON)
    assert_error(response, 400, "invalid_value", "temperature")


@pytest.mark.parametrize("content", [b"[]", b'"x"', b"5", b"null"])
def test_bodies_that_are_no_object(server: RunningServer, content: bytes) -> None:
    response = server.post("/v1/completions", content=content, headers=JSON)
    assert_error(response, 400, "invalid_type", None)


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_other_media_types(server: RunningServer, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    response = server.post("/v1/completions", content=b"{}", headers=headers)
    assert_error(response, 415, "unsupported_media_type", None)


def test_a_character_set_in_the_media_type_is_fine(server: RunningServer) -> None:
    content = json.dumps({"model": BASE, "prompt": "x", "max_tokens": 1})
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert server.post("/v1/completions", content=content, headers=headers).status_code == 200


def test_unknown_routes_and_methods(server: RunningServer) -> None:
    assert_error(server.get("/v1/nothing"), 404, "unknown_url", None)
    assert_error(server.get("/v1/models/"), 404, "model_not_found", "model")
    assert_error(server.post("/v1/completions/", {}), 404, "unknown_url", None)
    response = server.get("/v1/completions")
    assert_error(response, 405, "method_not_allowed", None)
    assert response.headers["allow"] == "POST"
    assert_error(server.post("/v1/models", {}), 405, "method_not_allowed", None)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/models", "GET"),
        ("/admin/v1/adapters", "GET, POST"),
        ("/admin/v1/adapters/a", "DELETE, GET"),
    ],
)
def test_405_lists_the_methods_of_all_routes_of_a_path(
    server: RunningServer, path: str, methods: str
) -> None:
    assert server.http.patch(path).headers["allow"] == methods


def test_a_prompt_that_is_too_long_is_told_the_numbers(server: RunningServer) -> None:
    error = assert_error(
        server.complete("x" * 500, max_tokens=13), 400, "context_length_exceeded", "prompt"
    )
    for number in ("512", "500", "13"):
        assert number in error["message"]
    assert server.complete("x" * 500, max_tokens=12).status_code == 200
    # Nobody asked for the 16 tokens that are the default, so fewer will do.
    answer = server.complete("x" * 500, max_tokens=None).json()
    assert answer["usage"]["completion_tokens"] == 12


def test_a_conversation_that_fills_the_context_has_no_room_for_an_answer(
    server: RunningServer,
) -> None:
    body = {"model": BASE, "messages": [{"role": "user", "content": "x" * 600}]}
    response = server.post("/v1/chat/completions", body)
    assert_error(response, 400, "context_length_exceeded", "messages")


def test_token_ids_beyond_the_vocabulary(server: RunningServer) -> None:
    assert server.complete([258], max_tokens=1).status_code == 200
    assert_error(server.complete([1, 259]), 400, "invalid_value", "prompt")
    assert_error(server.complete(stop_token_ids=[259]), 400, "invalid_value", "stop_token_ids")


def test_messages_that_the_template_refuses(server: RunningServer) -> None:
    messages = [USER, {"role": "system", "content": "late"}]
    response = server.post("/v1/chat/completions", {"model": BASE, "messages": messages})
    error = assert_error(response, 400, "invalid_value", "messages")
    assert "system message must come first" in error["message"]


def test_what_the_pool_could_never_hold(start_server: StartServer, adapters_dir: Any) -> None:
    """5 pages of 16 tokens; the adapter "blue" takes 4 of them."""
    with start_server(engine={"num_pages": 5}, adapter_dir=adapters_dir) as server:
        assert server.complete("x" * 40, max_tokens=40).status_code == 200
        error = assert_error(
            server.complete("x" * 40, max_tokens=41), 400, "pool_too_small", "prompt"
        )
        assert "6 pages" in error["message"]
        assert server.complete("x" * 8, max_tokens=8, model="blue").status_code == 200
        error = assert_error(
            server.complete("x" * 8, max_tokens=9, model="blue"), 400, "pool_too_small", "prompt"
        )
        assert "4 pages for the adapter" in error["message"]
        # Without a limit of its own, a chat takes what is left of the pool.
        body = {"model": BASE, "messages": [USER]}
        usage = server.post("/v1/chat/completions", body).json()["usage"]
        assert usage["total_tokens"] == 5 * 16


def test_large_bodies_are_refused_by_their_declared_length(server: RunningServer) -> None:
    """Before a byte of them is read."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 4194305\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_large_bodies_are_refused_as_they_come(server: RunningServer) -> None:
    def chunks() -> Any:
        yield b'{"model": "tiny", "prompt": "'
        for _ in range(5):
            yield b"x" * (1 << 20)
        yield b'"}'

    response = server.post("/v1/completions", content=chunks(), headers=JSON)
    assert_error(response, 413, "request_too_large", None)


def test_headers_without_end_are_cut_off(server: RunningServer) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\nx-a: ")
        answer = b""
        # One header that never ends: it is not even a whole one yet.
        with contextlib.suppress(ConnectionError):
            for _ in range(1024):
                connection.sendall(b"x" * (1 << 14))
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(100)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert server.complete().status_code == 200


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 128])
def test_a_proper_request_id_is_kept(server: RunningServer, given: str) -> None:
    response = server.get("/v1/models", headers={"x-request-id": given})
    assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["x" * 129, "a b", "a\tb", 'a"b', "ü".encode()])
def test_other_request_ids_are_replaced(server: RunningServer, given: str | bytes) -> None:
    response = server.get("/nothing", headers={"x-request-id": given})
    assert response.headers["x-request-id"].isalnum()
    assert len(response.headers["x-request-id"]) == 32


def test_a_failure_in_the_middle_of_a_stream_is_an_event(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02}) as server:
        body = {"model": BASE, "prompt": "abc", "max_tokens": 400, "stream": True}
        url = f"{server.url}/v1/completions"
        with httpx2.stream("POST", url, json=body, timeout=30) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            assert json.loads(next(lines).removeprefix("data: "))["choices"]
            server.kill_engine()
            events = [line for line in lines if line]
        error = json.loads(events[-2].removeprefix("data: "))["error"]
        assert (error["code"], error["type"]) == ("engine_dead", "server_error")
        assert events[-1] == "data: [DONE]"


def test_an_unforeseen_error_tells_nothing_but_its_id(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(server.started.registry.catalogue, "all", fail)
    response = server.get("/v1/models", headers={"x-request-id": "my-id"})
    error = assert_error(response, 500, "internal_error", None)
    assert "my-id" in error["message"]
    assert "secret" not in response.text
