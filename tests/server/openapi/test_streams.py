"""Every event of a stream is what the document says that it is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests.server.conftest import StartServer
from tests.server.openapi.api import narrowed_document
from tests.server.openapi.test_openai_objects import FLAT_TOOLS
from tests.server.running_server import BASE, RunningServer, running_server, wait_until
from tests.server.tools.test_tool_calls import ENGINE, TOOLS, TWO, told_to_say

Json = dict[str, Any]

DOCUMENT = narrowed_document()
USAGE = {"stream_options": {"include_usage": True}}
MESSAGES = [told_to_say(TWO)]


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One whose engine says what a prompt tells it to."""
    log = tmp_path_factory.mktemp("streams") / "engine.jsonl"
    with running_server(model_dir, log, ENGINE) as running:
        yield running


def check_events(path: str, text: str) -> list[str]:
    """The data of the events of a stream that `path` answered with, each of which is valid."""
    (operation,) = DOCUMENT["paths"][path].values()
    schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    event = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    alternatives = schema["properties"]["data"].get("anyOf", [schema["properties"]["data"]])
    content = alternatives[-1]["contentSchema"]
    data = Draft202012Validator({**content, "components": DOCUMENT["components"]})
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        event.validate(fields)
        found.append(fields["data"])
        if fields["data"] != "[DONE]":
            data.validate(json.loads(fields["data"]))
    return found


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"n": 2, "prompt": ["ab", "cd"], **USAGE},
        {"stream_options": {"continuous_usage_stats": True}},
        {"logprobs": 2, "echo": True, "return_token_ids": True},
    ],
)
def test_completions(server: RunningServer, params: Json) -> None:
    answer = server.complete(stream=True, **params)
    assert check_events("/v1/completions", answer.text)[-1] == "[DONE]"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"n": 2, **USAGE},
        {"logprobs": True, "top_logprobs": 3, "return_token_ids": True},
        {"tools": TOOLS, "logprobs": True},
        {"tools": TOOLS, "parallel_tool_calls": False, "return_token_ids": True},
    ],
)
def test_chats(server: RunningServer, params: Json) -> None:
    body = {"model": BASE, "messages": MESSAGES, "stream": True, "max_tokens": 300, **params}
    answer = server.post("/v1/chat/completions", body)
    assert check_events("/v1/chat/completions", answer.text)[-1] == "[DONE]"


@pytest.mark.parametrize("params", [{}, {"tools": FLAT_TOOLS}, {"max_output_tokens": 5}])
def test_responses(server: RunningServer, params: Json) -> None:
    answer = server.post(
        "/v1/responses", {"model": BASE, "input": MESSAGES, "stream": True, **params}
    )
    last = json.loads(check_events("/v1/responses", answer.text)[-1])
    assert last["type"] in ("response.completed", "response.incomplete")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "ab", "max_tokens": 400}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "ab"}]}),
        ("/v1/responses", {"input": "ab"}),
    ],
)
def test_a_stream_that_fails(model_dir: Path, tmp_path: Path, path: str, body: Json) -> None:
    engine = {"step_s": 0.05}
    with running_server(model_dir, tmp_path / "engine.jsonl", engine) as server:
        body = {"model": BASE, "stream": True, **body}
        with server.http.stream("POST", path, json=body) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            server.kill_engine()
            text += "".join(pieces)
        wait_until(server.is_ready)
    assert "engine_restarting" in text or "engine_dead" in text
    check_events(path, text)


def test_what_happens_to_adapters(start_server: StartServer, adapters_dir: Path) -> None:
    source = {"type": "path", "uri": "red"}
    with (
        start_server(adapter_roots=(adapters_dir,)) as server,
        server.http.stream("GET", "/admin/v1/events") as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines).startswith(":")
        assert next(lines) == ""
        server.post("/admin/v1/adapters", {"name": "new", "source": source, "wait": True})
        server.post("/admin/v1/adapters/new:pin", {})
        server.http.delete("/admin/v1/adapters/new")
        told: list[str] = []
        while "deleted" not in "".join(told):
            told.append(next(lines))
    found = check_events("/admin/v1/events", "\n".join(told))
    keys = {frozenset(json.loads(data)) for data in found}
    assert keys > {frozenset(("adapter", "weights")), frozenset(("adapter", "pinned"))}


@pytest.mark.parametrize(
    "chunk",
    [
        {"object": "text_completion"},
        {"error": {"message": "", "type": "server_error", "code": "overloaded"}},
        {"error": {"message": "", "type": "oops", "code": "overloaded", "param": None}},
    ],
)
def test_the_check_can_fail(chunk: Json) -> None:
    with pytest.raises(ValidationError):
        check_events("/v1/completions", f"data: {json.dumps(chunk)}\n\n")
