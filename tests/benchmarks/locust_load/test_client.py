"""What becomes of an answer, from real servers."""

import socket
import threading
from collections.abc import Iterator

import pytest

from benchmarks.locust_load.ask import Ask
from benchmarks.locust_load.client import Client, Failed, Finished, Outcome, Refused
from motet.bench.sse import StreamReader
from motet.bench.target import Target
from tests.benchmarks.fake_server import FakeServer, running


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with running(FakeServer(models=("a", "busy", "broken"), delay_s=0.001)) as server:
        yield server


def send(url: str, model: str) -> Outcome:
    body = Target(url=url).body(model, "why?", 5)
    ask = Ask(path="/v1/completions", body=body, headers={}, group=model)
    return Client(url).send(ask, StreamReader(0.0))


def test_a_whole_answer_is_finished(server: FakeServer) -> None:
    outcome = send(server.url, "a")
    assert isinstance(outcome, Finished)
    assert outcome.stream.num_output_tokens == 5
    assert len(outcome.stream.piece_times_s) == 5


def test_who_is_told_to_come_again_is_refused(server: FakeServer) -> None:
    assert send(server.url, "busy") == Refused(retry_after_s=1.0)


@pytest.mark.parametrize(("model", "reason"), [("broken", "engine_dead"), ("nope", "HTTP 404")])
def test_anything_else_has_failed(server: FakeServer, model: str, reason: str) -> None:
    outcome = send(server.url, model)
    assert isinstance(outcome, Failed)
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "connection closed"),
        (b"gibberish\r\n\r\n", "HTTPParseError"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: {}\n\n", "without [DONE]"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n", "Incomplete"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: {]\n\n", "no chunk"),
        (b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\nfull", "HTTP 503: full"),
    ],
)
def test_a_server_may_send_anything(answer: bytes, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_once, args=(listener, answer))
        thread.start()
        outcome = send(f"http://127.0.0.1:{listener.getsockname()[1]}", "a")
        thread.join()
    assert isinstance(outcome, Failed)
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("retry_after", "expected_s"), [("2.5", 2.5), ("-1", 0), ("nan", 0), ("tomorrow", 0)]
)
def test_times_to_come_again_may_be_anything(retry_after: str, expected_s: float) -> None:
    head = f"HTTP/1.1 429 X\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_once, args=(listener, head.encode()))
        thread.start()
        outcome = send(f"http://127.0.0.1:{listener.getsockname()[1]}", "a")
        thread.join()
    assert outcome == Refused(expected_s)


def test_a_server_that_is_not_there_is_a_failure() -> None:
    outcome = send("http://127.0.0.1:9", "a")
    assert isinstance(outcome, Failed)
    assert "ConnectionRefusedError" in outcome.reason


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(answer)
