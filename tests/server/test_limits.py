"""Limits of keys, over real HTTP with OpenAI's client."""

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from openai import AsyncOpenAI, RateLimitError
from starlette.types import Message, Receive, Scope, Send

from motet.server.allowance import Allowance, KeyUsage
from motet.server.context import RequestContext, put_context
from motet.server.keys import KeyLimits
from motet.server.limit_middleware import LimitMiddleware
from motet.server.principal import Principal
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer, wait_until
from tests.server.some_keys import bearer, some_key, write_keys
from tests.server.test_rate_window import Clock


@contextmanager
def limited_server(
    start_server: StartServer, tmp_path: Path, engine: dict[str, Any] | None = None, **limits: int
) -> Iterator[RunningServer]:
    """A server with two keys of these limits, "a-key" and "b-key"."""
    path = tmp_path / "keys.json"
    keys = [some_key(each, f"{each}-key", limits=KeyLimits(**limits)) for each in ("a", "b")]
    write_keys(path, *keys)
    with start_server(keys_file=path, engine=engine or {}) as server:
        yield server


def complete(server: RunningServer, key: str = "a-key", **params: Any) -> httpx2.Response:
    body = {"model": BASE, "prompt": "abcd", "max_tokens": 6, **params}
    return server.post("/v1/completions", body, headers=bearer(key))


def assert_limited(response: httpx2.Response, what: str) -> None:
    assert response.status_code == 429
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert what in error["message"]
    assert 1 <= int(response.headers["retry-after"]) <= 61
    retry_ms = int(response.headers["retry-after-ms"])
    assert 0 < retry_ms <= int(response.headers["retry-after"]) * 1000
    assert response.headers["x-should-retry"] == "true"


def ask_at_once(server: RunningServer, num_requests: int, key: str = "a-key") -> list[int]:
    """Statuses of requests that are all sent at the same time."""

    async def ask(client: AsyncOpenAI) -> int:
        try:
            await client.completions.create(model=BASE, prompt="abcd", max_tokens=6)
        except RateLimitError as error:
            return error.status_code
        return 200

    async def run() -> list[int]:
        url = f"{server.url}/v1"
        async with AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            return await asyncio.gather(*(ask(client) for _ in range(num_requests)))

    return asyncio.run(run())


def test_no_more_requests_than_allowed_get_in_however_many_come_at_once(
    start_server: StartServer, tmp_path: Path
) -> None:
    with limited_server(start_server, tmp_path, requests_per_minute=5) as server:
        statuses = ask_at_once(server, 20)
        assert (statuses.count(200), statuses.count(429)) == (5, 15)
        response = complete(server)
        assert_limited(response, "requests")
        assert response.headers["x-ratelimit-limit-requests"] == "5"
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-ratelimit-limit-tokens" not in response.headers
        # Listing takes a request too; another key has its own; probes have none.
        assert server.get("/v1/models", headers=bearer("a-key")).status_code == 429
        assert ask_at_once(server, 1, "b-key") == [200]
        assert server.get("/live", headers=bearer("a-key")).status_code == 200


def test_tokens_are_reserved_and_settled(start_server: StartServer, tmp_path: Path) -> None:
    with limited_server(start_server, tmp_path, tokens_per_minute=100) as server:
        # Stops after its first token, "a", of up to 60: 4 + 1 are used.
        response = complete(server, max_tokens=60, stop="a")
        assert response.status_code == 200
        assert response.headers["x-ratelimit-remaining-tokens"] == "95"
        assert complete(server, max_tokens=7, n=3).status_code == 200  # 4 + 21
        response = server.get("/v1/models", headers=bearer("a-key"))
        assert response.headers["x-ratelimit-limit-tokens"] == "100"
        assert response.headers["x-ratelimit-remaining-tokens"] == "70"
        assert response.headers["x-ratelimit-reset-tokens"].endswith("s")
        response = complete(server, max_tokens=67)
        assert_limited(response, "tokens")
        assert response.headers["x-ratelimit-remaining-tokens"] == "70"  # it took nothing
        assert complete(server, max_tokens=66).status_code == 200
        assert_limited(complete(server, max_tokens=1), "tokens")


def test_a_chat_that_does_not_say_how_long_fits_into_its_key_s_minute(
    start_server: StartServer, tmp_path: Path
) -> None:
    with limited_server(start_server, tmp_path, tokens_per_minute=100) as server:
        body = {"model": BASE, "messages": [{"role": "user", "content": "Hello"}], "n": 2}
        response = server.post("/v1/chat/completions", body, headers=bearer("a-key"))
        assert response.status_code == 200, response.text
        # Both choices together and the prompt; an odd token is left over.
        assert 99 <= response.json()["usage"]["total_tokens"] <= 100


def test_what_can_never_fit_is_not_worth_a_retry(start_server: StartServer, tmp_path: Path) -> None:
    with limited_server(start_server, tmp_path, tokens_per_minute=100) as server:
        response = complete(server, max_tokens=97)
        assert response.status_code == 429
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers


def test_a_request_that_is_refused_or_left_gives_its_tokens_back(
    start_server: StartServer, tmp_path: Path
) -> None:
    engine = {"step_s": 0.02}
    with limited_server(start_server, tmp_path, engine, tokens_per_minute=200) as server:
        remaining = "x-ratelimit-remaining-tokens"
        # Refused: the engine fails on this token, after 190 have been reserved.
        response = complete(server, prompt=[1, 7], max_tokens=188)
        assert response.status_code == 500
        assert server.get("/v1/models", headers=bearer("a-key")).headers[remaining] == "198"
        # Left after its first token; its stream's own headers count all that it reserved.
        body = {"model": BASE, "prompt": "abcd", "max_tokens": 190, "stream": True}
        url = f"{server.url}/v1/completions"
        with httpx2.stream("POST", url, json=body, headers=bearer("a-key")) as response:
            assert response.headers[remaining] == "4"
            assert json.loads(next(response.iter_lines()).removeprefix("data: "))["choices"]
        wait_until(lambda: server.started.client.num_in_flight == 0)
        left = int(server.get("/v1/models", headers=bearer("a-key")).headers[remaining])
        assert 100 < left < 198


def test_requests_at_a_time_are_counted_while_they_run(
    start_server: StartServer, tmp_path: Path
) -> None:
    engine = {"step_s": 0.02}
    with limited_server(start_server, tmp_path, engine, max_concurrent=2) as server:
        statuses = ask_at_once(server, 8)
        assert (statuses.count(200), statuses.count(429)) == (2, 6)
        assert ask_at_once(server, 2) == [200, 200]
        body = {"model": BASE, "prompt": "abcd", "max_tokens": 400, "stream": True}
        url, headers = f"{server.url}/v1/completions", bearer("a-key")
        with (
            httpx2.stream("POST", url, json=body, headers=headers),
            httpx2.stream("POST", url, json=body, headers=headers),
        ):
            assert_limited(complete(server), "at a time")
            assert complete(server, "b-key").status_code == 200
        # Those two have been left.
        wait_until(lambda: complete(server).status_code == 200)


def test_a_limit_that_changes_counts_what_was_used(
    start_server: StartServer, tmp_path: Path
) -> None:
    with limited_server(start_server, tmp_path, requests_per_minute=2) as server:
        assert ask_at_once(server, 3).count(200) == 2
        raised = some_key("a", "a-key", limits=KeyLimits(requests_per_minute=3))
        write_keys(tmp_path / "keys.json", raised)
        wait_until(lambda: complete(server).status_code == 200)
        assert ask_at_once(server, 3).count(200) == 0


def test_keys_without_limits_hear_of_none(start_server: StartServer) -> None:
    with start_server(api_key="k") as server:
        response = server.get("/v1/models", headers=bearer("k"))
        assert not any(name.startswith("x-ratelimit") for name in response.headers)


def test_a_reservation_is_settled_once_and_never_beyond_itself() -> None:
    usage = KeyUsage(Clock())
    allowance = Allowance(usage, KeyLimits(tokens_per_minute=100))
    first, second = allowance.reserve_tokens(60), allowance.reserve_tokens(40)
    first.settle(10)
    first.settle(0)
    assert usage.tokens.used == 50
    second.settle(1000)
    assert usage.tokens.used == 50


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_that_breaks_is_not_running_any_more(fails: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if fails:
            raise RuntimeError

    async def nothing(*_: object) -> Message:
        return {}

    async def run() -> None:
        context = RequestContext("id", limits=KeyLimits(max_concurrent=1))
        context.principal = Principal("a", "t", frozenset(), None)
        scope: Scope = {"type": "http"}
        put_context(scope, context)
        await middleware(scope, nothing, nothing)

    middleware = LimitMiddleware(app, Clock())
    for _ in range(3):
        if fails:
            with pytest.raises(RuntimeError):
                asyncio.run(run())
        else:
            asyncio.run(run())


def test_nothing_is_kept_of_keys_that_do_nothing() -> None:
    clock = Clock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def nothing(*_: object) -> Message:
        return {}

    async def ask(key_id: str) -> None:
        context = RequestContext("id", limits=KeyLimits(requests_per_minute=1))
        context.principal = Principal(key_id, "t", frozenset(), None)
        scope: Scope = {"type": "http"}
        put_context(scope, context)
        await middleware(scope, nothing, nothing)

    middleware = LimitMiddleware(app, clock)
    for number in range(1000):
        asyncio.run(ask(f"key-{number}"))
        clock.now_s += 1
    assert len(middleware._usages) < 100


def test_an_overloaded_server_takes_no_tokens(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = [some_key(each, f"{each}-key", limits=KeyLimits(tokens_per_minute=100)) for each in "ab"]
    write_keys(path, *keys)
    with start_server(keys_file=path, engine={"max_running": 0}, max_queued=1) as server:
        body = {"model": BASE, "prompt": "abcd", "max_tokens": 6}
        url, headers = f"{server.url}/v1/completions", bearer("b-key")
        with ThreadPoolExecutor(1) as pool:
            patient = {**headers, "x-request-timeout": "1"}
            waiting = pool.submit(httpx2.post, url, json=body, headers=patient)
            wait_until(lambda: len(server.started.client.queue) == 1)
            assert complete(server).status_code == 503
            assert waiting.result().status_code == 504
        listing = server.get("/v1/models", headers=bearer("a-key"))
        assert listing.headers["x-ratelimit-remaining-tokens"] == "100"


def test_a_request_whose_time_is_over_is_told_its_limits_too(
    start_server: StartServer, tmp_path: Path
) -> None:
    with limited_server(start_server, tmp_path, requests_per_minute=5) as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nx-request-timeout: 0.3\r\n"
                b"Authorization: Bearer a-key\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"x-ratelimit-remaining-requests: 4\r\n" in answer
        assert complete(server).headers["x-ratelimit-remaining-requests"] == "3"
