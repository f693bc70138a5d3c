"""Streams that are silent for a while, and streams that break."""

import json
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from motet.server.cli import app
from motet.server.config import ServeConfig
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer, wait_until

COMMENT = ": keep-alive"
BODY = {"model": BASE, "prompt": "abc", "max_tokens": 3, "stream": True}


def stream_lines(server: RunningServer, **params: object) -> list[str]:
    """The lines of a stream that are not empty; its status is 200."""
    with server.http.stream("POST", "/v1/completions", json={**BODY, **params}) as response:
        assert response.status_code == 200
        return [line for line in response.iter_lines() if line]


def test_a_silent_stream_is_kept_alive_with_comments(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.4}, sse_keep_alive_s=0.05) as server:
        lines = stream_lines(server)
        comments = [index for index, line in enumerate(lines) if line == COMMENT]
        events = [index for index, line in enumerate(lines) if line.startswith("data: {")]
    assert len(comments) + len(events) + 1 == len(lines)
    assert lines[-1] == "data: [DONE]"
    texts = [json.loads(lines[index][6:])["choices"][0]["text"] for index in events]
    assert texts == ["a", "b", "c"]
    for before, after in pairwise(events):
        assert any(before < comment < after for comment in comments)


def test_without_keep_alive_there_are_no_comments(start_server: StartServer) -> None:
    with start_server(engine={"step_s": 0.2}, sse_keep_alive_s=None) as server:
        assert COMMENT not in stream_lines(server)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], 15), (["--sse-keep-alive", "3"], 3), (["--sse-keep-alive", "0"], None)],
)
def test_the_option_says_for_how_long(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: int | None
) -> None:
    configs: list[ServeConfig] = []
    monkeypatch.setattr("motet.server.run.run", configs.append)
    assert CliRunner().invoke(app, ["serve", *arguments]).exit_code == 0
    assert [config.sse_keep_alive_s for config in configs] == [expected]


def test_a_stream_that_waits_for_its_turn_gets_its_status_and_comments(
    start_server: StartServer,
) -> None:
    """Nothing of it will ever come, so what arrives came before the first piece."""
    with start_server(engine={"max_running": 0}, sse_keep_alive_s=0.05) as server:
        with server.http.stream("POST", "/v1/completions", json=BODY) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            assert [next(lines) for _ in range(3)] == [COMMENT, "", COMMENT]
        (request,) = server.events("AddRequest")
        wait_until(
            lambda: (
                [each["request_id"] for each in server.events("AbortRequest")]
                == [request["request_id"]]
            )
        )
        assert server.started.client.num_in_flight == 0


def test_an_error_after_the_status_is_an_event(start_server: StartServer) -> None:
    """The engine dies while the client is being kept waiting."""
    with start_server(engine={"max_running": 0}, sse_keep_alive_s=0.05) as server:
        with server.http.stream("POST", "/v1/completions", json=BODY) as response:
            lines = (line for line in response.iter_lines() if line and line != COMMENT)
            wait_until(lambda: server.events("AddRequest"))
            server.kill_engine()
            error, done = list(lines)
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_dead"
        assert done == "data: [DONE]"
        assert 'status="500"' in server.get("/metrics").text


def test_an_error_before_the_first_piece_has_its_status(start_server: StartServer) -> None:
    with start_server(engine={"max_running": 0}) as server:
        response = server.post("/v1/completions", {**BODY, "prompt": [7]})
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"
