"""Parameters that are not read: which are ignored, which never are, and how it is told."""

from typing import Any

import pytest
from starlette.responses import Response

from motet.server.parameters import IGNORED_HEADER, ignored_parameters, tell_ignored
from motet.server.protocol import ALL_PARAMETERS
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer
from tests.server.test_http_errors import assert_error

USER = {"role": "user", "content": "hello"}
CHAT = {"model": BASE, "messages": [USER], "max_tokens": 1}
# Real parameters that would have changed the answer.
REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy"},
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "moderation": {},
    "store": True,
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "chat_template": "{{ messages }}",
    "reasoning_effort": "high",
    "service_tier": "flex",
    "use_beam_search": True,
    "guided_json": {"type": "object"},
    "suffix": "x",
    "spaces_between_special_tokens": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_ignored_is_named(server: RunningServer, stream: bool) -> None:
    ignored = {"metadata": {"a": "b"}, "verbosity": "low", "safety_identifier": None}
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": BASE, "prompt": "x", "max_tokens": 1}),
    ):
        response = server.post(path, {**body, **ignored, "stream": stream})
        assert response.status_code == 200, response.text
        assert response.headers[IGNORED_HEADER] == "metadata, verbosity"
        # What is at the value that does nothing was not ignored: it was done.
        response = server.post(path, {**body, "store": False, "user": "me", "stream": stream})
        assert response.status_code == 200, response.text
        assert IGNORED_HEADER not in response.headers


def test_lenient_servers_ignore_what_nobody_knows(start_server: StartServer) -> None:
    with start_server(lenient_parameters=True) as server:
        response = server.post("/v1/chat/completions", {**CHAT, "zzz": 1, "x-y z\r\n": {}})
        assert response.status_code == 200, response.text
        assert response.headers[IGNORED_HEADER] == "zzz, x-y%20z%0D%0A"
        for name, value in REFUSED.items():
            for path, body in (
                ("/v1/chat/completions", CHAT),
                ("/v1/completions", {"model": BASE, "prompt": "x"}),
            ):
                response = server.post(path, {**body, name: value})
                assert response.status_code == 400, (path, name)
                assert response.json()["error"]["param"] == name
        # Nor is a parameter of the other endpoint ignored, nor one of a wrong type.
        response = server.post("/v1/chat/completions", {**CHAT, "prompt": "x"})
        assert_error(response, 400, "unknown_parameter", "prompt")
        response = server.post("/v1/chat/completions", {**CHAT, "n": "1"})
        assert_error(response, 400, "invalid_type", "n")


def test_strict_servers_refuse_what_nobody_knows(server: RunningServer) -> None:
    response = server.post("/v1/chat/completions", {**CHAT, "top_logprob": 1})
    error = assert_error(response, 400, "unknown_parameter", "top_logprob")
    assert "'top_logprobs'" in error["message"]


@pytest.mark.parametrize("name", REFUSED)
def test_strict_servers_refuse_what_would_change_the_answer(
    server: RunningServer, name: str
) -> None:
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": BASE, "prompt": "x"}),
    ):
        response = server.post(path, {**body, name: REFUSED[name]})
        code = response.json()["error"]["code"]
        assert response.status_code == 400
        assert code in ("unsupported_parameter", "unknown_parameter")
        assert response.json()["error"]["param"] == name


def test_a_header_holds_any_number_of_names() -> None:
    names = [f"{'ü' * 1000}{number}" for number in range(1000)]
    assert ignored_parameters(dict.fromkeys(names, 1), ALL_PARAMETERS, is_lenient=True) == names
    response = Response()
    tell_ignored(response, names)
    assert response.headers[IGNORED_HEADER].isascii()
    assert len(response.headers[IGNORED_HEADER]) < 8192
