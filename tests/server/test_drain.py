"""How a server ends: seen by probes, by new requests, and by those that run."""

import json
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest

from motet.server.app import GENERATION_PATHS
from motet.server.auth import Surface
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer, wait_until

ENDLESS = {"model": BASE, "prompt": "abc", "max_tokens": 400}


@pytest.fixture
def draining(start_server: StartServer) -> Iterator[tuple[RunningServer, httpx2.Response]]:
    """A server that was told to end while it streams an answer."""
    with (
        start_server(engine={"step_s": 0.05}) as server,
        server.http.stream("POST", "/v1/completions", json=ENDLESS | {"stream": True}) as stream,
    ):
        server.started.stop()
        yield server, stream
        server.started.stop()  # the answer would take long


def answer(server: RunningServer, method: str, path: str, **body: object) -> httpx2.Response:
    """On a connection of its own, as a probe's is."""
    content = {"json": body} if body else {}
    return httpx2.request(method, f"{server.url}{path}", timeout=10, **content)


def test_probes_on_new_connections_see_that_it_is_not_ready(
    draining: tuple[RunningServer, httpx2.Response],
) -> None:
    server, _ = draining
    for path in ("/ready", "/health"):
        refusal = answer(server, "GET", path)
        assert refusal.status_code == 503
        assert refusal.json()["error"]["code"] == "shutting_down"
    assert answer(server, "GET", "/live").status_code == 200


@pytest.mark.parametrize("path", sorted(GENERATION_PATHS))
def test_new_requests_are_refused_and_may_be_tried_elsewhere(
    draining: tuple[RunningServer, httpx2.Response], path: str
) -> None:
    server, _ = draining
    refusal = answer(server, "POST", path, **ENDLESS)
    assert refusal.status_code == 503
    assert refusal.json()["error"]["code"] == "shutting_down"
    assert int(refusal.headers["retry-after"]) > 0
    assert refusal.headers["x-should-retry"] == "true"
    assert answer(server, "GET", "/v1/models").status_code == 200


def test_what_runs_is_finished_and_then_the_server_ends(start_server: StartServer) -> None:
    body = ENDLESS | {"max_tokens": 20, "stream": True}
    with start_server(engine={"step_s": 0.05}) as server:
        with server.http.stream("POST", "/v1/completions", json=body) as stream:
            server.started.stop()
            events = [line for line in stream.iter_lines() if line]
        assert events[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in events[-2]
        wait_until(lambda: is_closed(server))


def test_an_idle_server_ends_at_once(start_server: StartServer) -> None:
    with start_server() as server:
        server.started.stop()
        wait_until(lambda: is_closed(server))


@pytest.mark.parametrize("drain_timeout_s", [0, 1])
def test_what_does_not_finish_in_time_gets_an_error(
    start_server: StartServer, drain_timeout_s: int
) -> None:
    whole: list[httpx2.Response] = []
    with start_server(engine={"step_s": 0.05}, drain_timeout_s=drain_timeout_s) as server:
        waiting = threading.Thread(
            target=lambda: whole.append(answer(server, "POST", "/v1/completions", **ENDLESS))
        )
        waiting.start()
        body = ENDLESS | {"stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as stream:
            wait_until(lambda: len(server.events("AddRequest")) == 2)
            server.started.stop()
            events = [line for line in stream.iter_lines() if line]
        waiting.join(20)
        assert events[-1] == "data: [DONE]"
        error = json.loads(events[-2].removeprefix("data: "))["error"]
        assert error["code"] == "shutting_down"
        assert whole[0].status_code == 503
        assert whole[0].json()["error"]["code"] == "shutting_down"
        wait_until(lambda: is_closed(server))


def test_a_second_stop_ends_it_at_once(start_server: StartServer) -> None:
    body = ENDLESS | {"stream": True}
    with (
        start_server(engine={"step_s": 0.05}, drain_timeout_s=1000) as server,
        server.http.stream("POST", "/v1/completions", json=body),
    ):
        server.started.stop()
        time.sleep(0.3)
        assert not is_closed(server)
        server.started.stop()
        wait_until(lambda: is_closed(server))


def test_two_listeners_drain_and_close_together(start_server: StartServer) -> None:
    body = ENDLESS | {"max_tokens": 20, "stream": True}
    with start_server(engine={"step_s": 0.05}, admin_port=0) as server:
        admin_url = server.started.urls[Surface.ADMIN]
        with server.http.stream("POST", "/v1/completions", json=body) as stream:
            server.started.stop()
            for url in (server.url, admin_url):
                refusal = httpx2.get(f"{url}/ready")
                assert refusal.json()["error"]["code"] == "shutting_down"
            assert httpx2.get(f"{admin_url}/admin/v1/memory").status_code == 200
            assert [line for line in stream.iter_lines() if line][-1] == "data: [DONE]"
        for url in (server.url, admin_url):
            wait_until(lambda url=url: is_closed(server, url))


def test_a_response_that_is_cut_off_is_told_in_its_own_words(start_server: StartServer) -> None:
    body = {"model": BASE, "input": "abc", "max_output_tokens": 400, "stream": True}
    with (
        start_server(engine={"step_s": 0.05}, drain_timeout_s=1) as server,
        server.http.stream("POST", "/v1/responses", json=body) as stream,
    ):
        server.started.stop()
        lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
    *_, error, failed = (json.loads(line.removeprefix("data: ")) for line in lines)
    assert (error["type"], error["code"]) == ("error", "shutting_down")
    assert failed["type"] == "response.failed"


def is_closed(server: RunningServer, url: str | None = None) -> bool:
    try:
        httpx2.get(f"{url or server.url}/live")
    except httpx2.TransportError:
        return True
    return False
