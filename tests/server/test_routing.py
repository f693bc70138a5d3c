"""`return_routing` over HTTP: both formats, whole and streamed, in line with the text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import write_adapter, write_adapters, write_set
from tests.server.fake_engine import MAX_RANK, digest_of
from tests.server.running_server import BASE, RunningServer, running_server
from tests.server.test_admin_adapters import code
from tests.server.test_logprobs import chunks_of
from tests.server.tiny_model import END_OF_TURN

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
EXPERTS = ("red", "blue", "green")
USER = {"role": "user", "content": "abcdefgh"}


@pytest.fixture(scope="module")
def routed(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a set of three experts, and one of ranks."""
    directory = tmp_path_factory.mktemp("routed")
    adapters = write_adapters(directory / "adapters")
    write_adapter(adapters / "green", b"green")
    write_set(adapters / "mix", {name: name.encode() for name in EXPERTS})
    write_set(adapters / "ranks", {"red": b"red"}, method="smora")
    with running_server(model_dir, directory / "engine.jsonl", adapter_dir=adapters) as running:
        yield running


def complete(server: RunningServer, prompt: object = "abcdef", **params: object) -> dict[str, Any]:
    response = server.complete(prompt, **{"model": "mix", "return_routing": True, **params})
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    assert isinstance(choice, dict)
    return choice


def chat(server: RunningServer, **params: object) -> dict[str, Any]:
    body = {"model": "mix", "messages": [USER], "max_tokens": 6, "return_routing": True, **params}
    response = server.post(CHATS, body)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    assert isinstance(choice, dict)
    return choice


def tokens(choice: dict[str, Any]) -> list[str]:
    return [each["token"] for each in choice["routing"]]


def test_each_token_is_told_with_its_experts_the_main_one_first(routed: RunningServer) -> None:
    choice = complete(routed, max_tokens=4)
    assert "".join(tokens(choice)) == choice["text"]
    for place, each in enumerate(choice["routing"]):
        main = EXPERTS[place % 3]
        assert each["experts"] == {name: 0.75 if name == main else 0.125 for name in EXPERTS}
        assert next(iter(each["experts"])) == main


def test_ranks_are_told_by_number(routed: RunningServer) -> None:
    choice = complete(routed, model="ranks", max_tokens=1)
    [only] = choice["routing"]
    assert only["experts"] == {
        str(rank): 0.75 if rank == 0 else round(0.25 / (MAX_RANK - 1), 4)
        for rank in range(MAX_RANK)
    }


def test_nobody_who_does_not_ask_is_told(routed: RunningServer) -> None:
    assert "routing" not in complete(routed, return_routing=False)
    assert "routing" not in chat(routed, return_routing=False)
    assert not routed.events("AddRequest")[-1]["returns_routing"]


@pytest.mark.parametrize("model", [BASE, "red"])
def test_what_chooses_nothing_has_nothing_to_tell(routed: RunningServer, model: str) -> None:
    num_requests = len(routed.events("AddRequest"))
    refused = routed.complete(model=model, return_routing=True)
    assert code(refused) == (400, "invalid_value")
    assert refused.json()["error"]["param"] == "return_routing"
    assert "/v1/models" in refused.json()["error"]["message"]
    assert len(routed.events("AddRequest")) == num_requests
    assert code(routed.complete(model="mix", return_routing=1)) == (400, "invalid_type")


@pytest.mark.parametrize("stop", [None, "cd", ["zz", "fa"], "a"])
def test_a_stream_tells_the_same_and_no_more_than_its_text(
    routed: RunningServer, stop: object
) -> None:
    params: dict[str, Any] = {"max_tokens": 9, "stop": stop, "logprobs": 1, "n": 1}
    whole = complete(routed, "ab€cdef", **params)
    body = {"model": "mix", "prompt": "ab€cdef", "return_routing": True, **params}
    choices = [each["choices"][0] for each in chunks_of(routed, COMPLETIONS, body)]
    assert "".join(each["text"] for each in choices) == whole["text"]
    assert [entry for each in choices for entry in each["routing"]] == whole["routing"]
    assert tokens(whole) == whole["logprobs"]["tokens"]
    for each in choices:
        assert tokens(each) == each["logprobs"]["tokens"]


def test_a_chat_tells_the_tokens_that_it_shows(routed: RunningServer) -> None:
    params: dict[str, Any] = {"logprobs": True, "max_tokens": 12, "stop": "u"}
    whole = chat(routed, **params)
    told = [each["token"] for each in whole["logprobs"]["content"]]
    assert tokens(whole) == told
    body = {"model": "mix", "messages": [USER], "return_routing": True, **params}
    choices = [each["choices"][0] for each in chunks_of(routed, CHATS, body)]
    assert [entry for each in choices for entry in each.get("routing", [])] == whole["routing"]
    for each in choices:
        if each["logprobs"] is not None:
            assert tokens(each) == [entry["token"] for entry in each["logprobs"]["content"]]


def test_the_token_that_ends_an_answer_is_told(routed: RunningServer) -> None:
    choice = complete(routed, END_OF_TURN, max_tokens=9)
    assert (choice["text"], tokens(choice)) == ("", [END_OF_TURN])


def test_chats_with_tools_tell_it_too(routed: RunningServer) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    whole = chat(routed, tools=tools)
    assert len(whole["routing"]) == 6
    body = {"model": "mix", "messages": [USER], "max_tokens": 6, "tools": tools}
    choices = [
        each["choices"][0] for each in chunks_of(routed, CHATS, {**body, "return_routing": True})
    ]
    assert [entry for each in choices for entry in each.get("routing", [])] == whole["routing"]


def test_every_choice_has_its_own(routed: RunningServer) -> None:
    body = {"model": "mix", "prompt": ["abc", "defg"], "n": 2, "max_tokens": 3}
    answer = routed.post(COMPLETIONS, {**body, "return_routing": True}).json()
    assert [len(each["routing"]) for each in answer["choices"]] == [3] * 4
    assert json.loads(json.dumps(answer)) == answer
    assert digest_of(b"red") in json.dumps(routed.get("/v1/models").json())
