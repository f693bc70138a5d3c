"""Requests that the scheduling policy gives up: what their clients get, and what is counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog.testing
from openai import APIStatusError, OpenAI

from motet.server.keys import KeyLimits
from tests.server.conftest import StartServer
from tests.server.fake_engine import REFUSE_TOKEN, RETRY_AFTER_S
from tests.server.running_server import BASE, RunningServer, wait_until
from tests.server.some_keys import bearer, some_key, write_keys
from tests.server.test_metrics import scrape

REFUSED = "\x11"  # its token is REFUSE_TOKEN
MESSAGES = [{"role": "user", "content": REFUSED}]
# A prompt whose answer takes long, and one that is refused.
TWO_PROMPTS = [[64, 65, 66], [REFUSE_TOKEN]]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": REFUSED}),
    ("/v1/completions", {"prompt": REFUSED, "n": 3}),
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/responses", {"input": REFUSED}),
]


def assert_refused(response: httpx2.Response) -> None:
    assert response.status_code == 503, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("overloaded", "server_error")
    assert error["message"] == "it would be served too late"
    assert response.headers["retry-after"] == "8"
    assert response.headers["retry-after-ms"] == str(int(RETRY_AFTER_S * 1000))
    assert response.headers["x-should-retry"] == "true"


def assert_nothing_is_left(server: RunningServer) -> None:
    client = server.started.client
    wait_until(lambda: client.num_in_flight == 0)
    assert len(client.queue) == 0


def events_of(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize("stream", [False, True])
def test_before_its_first_token_it_has_a_status_of_its_own(
    server: RunningServer, path: str, body: dict[str, Any], stream: bool
) -> None:
    assert_refused(server.post(path, {"model": BASE, "stream": stream, **body}))
    assert_nothing_is_left(server)


def test_one_choice_that_is_refused_refuses_them_all(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02}) as server:
        assert_refused(server.complete(TWO_PROMPTS, max_tokens=400))
        wait_until(lambda: server.events("AbortRequest"))
        [aborted] = server.events("AbortRequest")
        assert aborted["request_id"] == server.events("AddRequest")[0]["request_id"]
        assert_nothing_is_left(server)


def test_a_stream_that_has_begun_ends_with_the_error(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.02, "refuse_s": 0.2}) as server:
        events = events_of(server.complete(TWO_PROMPTS, max_tokens=400, stream=True))
        assert json.loads(events[0])["choices"]
        assert json.loads(events[-2])["error"]["code"] == "overloaded"
        assert events[-1] == "[DONE]"
        assert_nothing_is_left(server)
        series = "motet_requests_total", (("model", BASE), ("status", "503"))
        wait_until(lambda: scrape(server).get(series) == 1)


def test_after_the_first_comment_of_a_silent_stream_it_is_an_event(
    start_server: StartServer,
) -> None:
    """The comment took the status with it. A whole answer is never too late for one."""
    with start_server(engine={"refuse_s": 0.4}, sse_keep_alive_s=0.1) as server:
        *comments, error, end = events_of(server.complete(REFUSED, stream=True))
        assert comments
        assert set(comments) == {": keep-alive"}
        assert json.loads(error)["error"]["code"] == "overloaded"
        assert end == "[DONE]"
        assert_refused(server.complete(REFUSED))
    with start_server(engine={"refuse_s": 0.4}, sse_keep_alive_s=None) as server:
        assert_refused(server.complete(REFUSED, stream=True))


Ask = Callable[[RunningServer], httpx2.Response]


def ask_with_header(server: RunningServer) -> httpx2.Response:
    body = {"model": BASE, "prompt": REFUSED, "n": 2}
    return server.post("/v1/completions", body, headers={"x-request-timeout": "0.3"})


def ask_plainly(server: RunningServer) -> httpx2.Response:
    return server.complete(REFUSED, n=2, stream=True)


@pytest.mark.parametrize(
    ("ask", "options"), [(ask_with_header, {}), (ask_plainly, {"max_queue_time_s": 0.3})]
)
def test_of_a_refusal_and_a_deadline_the_earlier_one_counts(
    start_server: StartServer, ask: Ask, options: dict[str, Any]
) -> None:
    with start_server(engine={"refuse_s": 1.0}, **options) as server:
        response = ask(server)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        assert_nothing_is_left(server)
        assert scrape(server)["motet_refused_requests_total", (("reason", "policy"),)] == 0
    with start_server(engine={"refuse_s": 0.0}, **options) as server:
        assert_refused(ask(server))
        assert_nothing_is_left(server)
        assert ("motet_errors_total", (("code", "timeout"),)) not in scrape(server)


def test_it_is_counted_and_logged_apart_from_failures(start_server: StartServer) -> None:
    with start_server() as server:
        reasons = ("queue_full", "policy", "grammars")
        before = scrape(server)
        assert [before[of_reason(each)] for each in reasons] == [0, 0, 0]
        with structlog.testing.capture_logs() as logs:
            server.complete(REFUSED, n=2)
            wait_until(lambda: any(each["event"] == "request" for each in logs))
        [line] = [each for each in logs if each["event"] == "request"]
        assert (line["status"], line["code"], line["refusal"]) == (503, "overloaded", "policy")
        assert line["num_prompt_tokens"] == 0
        after = scrape(server)
        assert [after[of_reason(each)] for each in reasons] == [0, 1, 0]
        assert after["motet_errors_total", (("code", "overloaded"),)] == 1
        # Of two choices; the engine may have been told that the other is not wanted any more.
        assert after["motet_engine_refusals_total", ()] in (1, 2)
        requests = server.get("/admin/v1/memory").json()["requests"]
        assert (requests["policy"], requests["refusals"] in (1, 2)) == ("fcfs", True)
        server.complete("abc")
        assert scrape(server)[of_reason("policy")] == 1


def of_reason(reason: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "motet_refused_requests_total", (("reason", reason),)


def test_it_takes_none_of_its_keys_tokens(start_server: StartServer, tmp_path: Path) -> None:
    limits = KeyLimits(tokens_per_minute=1000)
    write_keys(tmp_path / "keys.json", some_key(limits=limits))
    with start_server(keys_file=tmp_path / "keys.json") as server:

        def tokens_left(prompt: str) -> int:
            body = {"model": BASE, "prompt": prompt, "max_tokens": 5}
            response = server.post("/v1/completions", body, headers=bearer("secret"))
            return int(response.headers["x-ratelimit-remaining-tokens"])

        tokens_left(REFUSED * 20)  # it is settled after the headers have gone
        assert tokens_left("abc") == 1000 - 3 - 5
        key = bearer("secret")
        text = server.get("/metrics", headers=key).text
        assert 'motet_tenant_tokens_total{kind="prompt",tenant="acme"} 3.0' in text


def test_openais_client_sees_what_it_goes_by(server: RunningServer) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with client, pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(model=BASE, messages=MESSAGES, stream=True)  # type: ignore[call-overload]
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.response.headers["x-should-retry"] == "true"
