"""Answers are OpenAI's objects: by the types that OpenAI publishes, and with every key that its
specification requires, which those types leave optional."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openai.types import Completion, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.server.conftest import write_adapters
from tests.server.running_server import BASE, RunningServer, running_server
from tests.server.tools.test_tool_calls import ENGINE, TOOLS, TWO, told_to_say

Json = dict[str, Any]

# Required by the specification, by the names of the types.
_REQUIRED = {
    "ChatCompletionMessage": ["role", "content", "refusal"],
    "ChatCompletionTokenLogprob": ["token", "logprob", "bytes", "top_logprobs"],
    "ChoiceDeltaToolCall": ["index", "function"],
    "ChoiceLogprobs": ["content", "refusal"],
    "CompletionChoice": ["finish_reason", "index", "logprobs", "text"],
    "ErrorObject": ["code", "message", "param", "type"],
    "Logprobs": ["text_offset", "token_logprobs", "tokens", "top_logprobs"],
    "TopLogprob": ["token", "logprob", "bytes"],
}
_REQUIRED_OF_CHOICES = {
    ChatCompletion: ["finish_reason", "index", "message", "logprobs"],
    ChatCompletionChunk: ["finish_reason", "index", "delta"],
}


def check(kind: Any, value: object) -> None:
    """Whether `value` is an object of this type of OpenAI's library, with all required keys."""
    validator_of(kind).validate(value)


@cache
def validator_of(kind: Any) -> Draft202012Validator:
    schema = TypeAdapter(kind).json_schema()
    definitions = schema.get("$defs", {})
    for name, named in [(schema.get("title"), schema), *definitions.items()]:
        named["required"] = [*named.get("required", []), *_REQUIRED.get(name, [])]
    if kind in _REQUIRED_OF_CHOICES:
        definitions["Choice"]["required"] = _REQUIRED_OF_CHOICES[kind]
    return Draft202012Validator(schema)


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One whose engine says what a prompt tells it to."""
    directory = tmp_path_factory.mktemp("objects")
    adapters = write_adapters(directory / "adapters")
    log = directory / "engine.jsonl"
    with running_server(model_dir, log, ENGINE, adapter_dir=adapters) as running:
        yield running


COMPLETIONS: list[Json] = [
    {},
    {"n": 2, "prompt": ["ab", "cd"]},
    {"logprobs": 3},
    {"logprobs": 0, "n": 2, "best_of": 3},
    {"prompt": [5, 6], "echo": True, "return_token_ids": True},
]
CHATS: list[Json] = [
    {},
    {"n": 2},
    {"logprobs": True, "top_logprobs": 2},
    {"tools": TOOLS},
    {"tools": TOOLS, "logprobs": True, "n": 2},
    {"tools": TOOLS, "tool_choice": "none"},
]


def chat(server: RunningServer, **params: Any) -> Any:
    body = {"model": BASE, "messages": [told_to_say(TWO)], "max_tokens": 200, **params}
    return server.post("/v1/chat/completions", body)


def chunks(answer: Any) -> list[Json]:
    """What the events of a stream say, which ends with `[DONE]`."""
    assert answer.status_code == 200, answer.text
    *frames, end = answer.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.mark.parametrize("params", COMPLETIONS)
def test_a_completion(server: RunningServer, params: Json) -> None:
    check(Completion, server.complete(**params).json())


@pytest.mark.parametrize("params", [each for each in COMPLETIONS if "best_of" not in each])
def test_chunks_of_a_completion(server: RunningServer, params: Json) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    parts = chunks(server.complete(**params, **options))
    assert parts[-1]["choices"] == []
    for part in parts:
        for choice in part["choices"]:
            # OpenAI's own chunks have null there until the last, which its type does not know.
            assert "finish_reason" in choice
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        check(Completion, part)


@pytest.mark.parametrize("params", CHATS)
def test_a_chat(server: RunningServer, params: Json) -> None:
    answer = chat(server, **params).json()
    check(ChatCompletion, answer)
    has_calls = "tools" in params and "tool_choice" not in params
    assert ("tool_calls" in answer["choices"][0]["message"]) == has_calls


@pytest.mark.parametrize("params", CHATS)
def test_chunks_of_a_chat(server: RunningServer, params: Json) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    parts = chunks(chat(server, **params, **options))
    assert parts[-1]["choices"] == []
    for part in parts:
        check(ChatCompletionChunk, part)


FLAT_TOOLS = [{"type": "function", **tool["function"]} for tool in TOOLS]


@pytest.mark.parametrize("tools", [[], FLAT_TOOLS])
def test_a_response_and_its_events(server: RunningServer, tools: list[Json]) -> None:
    body = {"model": BASE, "input": [told_to_say(TWO)], "tools": tools, "max_output_tokens": 200}
    check(Response, server.post("/v1/responses", body).json())
    stream = server.post("/v1/responses", {**body, "stream": True})
    events = [line for line in stream.text.splitlines() if line.startswith("data: ")]
    assert len(events) > 8
    for event in events:
        check(ResponseStreamEvent, json.loads(event.removeprefix("data: ")))


def test_models(server: RunningServer) -> None:
    listed = server.get("/v1/models").json()
    assert listed["object"] == "list"
    assert len(listed["data"]) == 3
    for model in [*listed["data"], server.get("/v1/models/red").json()]:
        check(Model, model)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"model": BASE, "prompt": []}, 400),
        ("/v1/completions", {"model": "nope", "prompt": "a"}, 404),
        ("/v1/chat/completions", {"model": BASE, "messages": [], "n": 0}, 400),
        ("/v1/responses", {"model": BASE}, 400),
        ("/v1/nothing", {}, 404),
        ("/live", {}, 405),
    ],
)
def test_errors(server: RunningServer, path: str, body: Json, status: int) -> None:
    answer = server.post(path, body)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    check(ErrorObject, answer.json()["error"])
