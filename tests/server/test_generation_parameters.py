"""What the parameters beside sampling and log probabilities do, over HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest

from motet.core.errors import MotetError
from motet.server import admission
from motet.server.principal import Principal, Role
from motet.server.tokenizer import TextTokenizer
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer
from tests.server.test_http_errors import assert_error
from tests.server.tiny_model import BOS, END_OF_TURN

USER = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> TextTokenizer:
    return TextTokenizer.from_dir(model_dir)


def choice_of(server: RunningServer, prompt: object, **params: object) -> dict[str, Any]:
    response = server.complete(prompt, **params)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    whole: dict[str, Any] = choice
    return whole


def chat(server: RunningServer, *messages: dict[str, str], **params: object) -> dict[str, Any]:
    body = {"model": BASE, "messages": list(messages) or [USER], "max_tokens": 1, **params}
    response = server.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def last_request(server: RunningServer) -> dict[str, Any]:
    return server.events("AddRequest")[-1]


def last_prompt(server: RunningServer, tokenizer: TextTokenizer) -> str:
    ids = last_request(server)["prompt_token_ids"]
    return tokenizer.decode(ids, skip_special_tokens=False)


def chunks_of(server: RunningServer, path: str, **body: object) -> list[dict[str, Any]]:
    response = server.post(path, {"model": BASE, "stream": True, **body})
    assert response.status_code == 200, response.text
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [json.loads(event) for event in events[:-1]]


def test_biases_reach_the_engine(server: RunningServer) -> None:
    choice_of(server, "abc", logit_bias={"258": -100, "5": 1.5})
    assert last_request(server)["sampling"]["logit_bias"] == [[5, 1.5], [258, -100.0]]
    assert_error(server.complete("abc", logit_bias={"259": 1}), 400, "invalid_value", "logit_bias")


def test_no_end_comes_before_enough_tokens(server: RunningServer) -> None:
    prompt = f"ab{END_OF_TURN}"
    assert choice_of(server, prompt, max_tokens=9)["text"] == "ab"
    assert choice_of(server, prompt, max_tokens=9, min_tokens=3)["text"] == "abab"
    assert last_request(server)["sampling"]["min_tokens"] == 3
    # Stop strings wait as stop tokens do.
    assert choice_of(server, "abc", max_tokens=9, stop="b")["text"] == "a"
    assert choice_of(server, "abc", max_tokens=9, stop="b", min_tokens=2)["text"] == "abca"


def test_no_more_than_all_tokens_may_be_demanded(server: RunningServer) -> None:
    for params in ({"max_tokens": 3}, {"max_tokens": None}):
        response = server.complete("abc", min_tokens=17, **params)
        assert_error(response, 400, "invalid_value", "min_tokens")


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_may_be_part_of_the_answer(server: RunningServer, stream: bool) -> None:
    params: dict[str, Any] = {"max_tokens": 9, "stop": ["cd"], "include_stop_str_in_output": True}
    if stream:
        chunks = chunks_of(server, "/v1/completions", prompt="abcde", **params)
        choices = [chunk["choices"][0] for chunk in chunks]
    else:
        choices = [choice_of(server, "abcde", **params)]
    assert "".join(choice["text"] for choice in choices) == "abcd"
    assert choices[-1]["finish_reason"] == "stop"


def test_special_tokens_may_be_shown(server: RunningServer) -> None:
    prompt = f"a{END_OF_TURN}b"
    params = {"max_tokens": 3, "ignore_eos": True}
    assert choice_of(server, prompt, **params)["text"] == "ab"
    assert choice_of(server, prompt, **params, skip_special_tokens=False)["text"] == prompt


@pytest.mark.parametrize("as_ids", [False, True])
def test_token_ids_are_told_where_they_are_asked_for(
    server: RunningServer, tokenizer: TextTokenizer, as_ids: bool
) -> None:
    ids = tokenizer.encode("a€")
    choice = choice_of(server, ids if as_ids else "a€", max_tokens=2, return_token_ids=True)
    assert (choice["prompt_token_ids"], choice["token_ids"]) == (ids, ids[:2])
    assert choice["logprobs"] is None
    chunks = chunks_of(
        server, "/v1/completions", prompt=["a€", "b"], max_tokens=3, return_token_ids=True
    )
    choices = [chunk["choices"][0] for chunk in chunks]
    prompts = [
        (choice["index"], choice["prompt_token_ids"])
        for choice in choices
        if "prompt_token_ids" in choice
    ]
    assert sorted(prompts) == [(0, ids), (1, tokenizer.encode("b"))]
    told = [each for choice in choices if choice["index"] == 0 for each in choice["token_ids"]]
    assert told == ids[:3]
    assert not {"token_ids", "prompt_token_ids"} & set(choice_of(server, "a"))


def test_token_ids_of_a_chat(server: RunningServer) -> None:
    answer = chat(server, return_token_ids=True)
    prompt = last_request(server)["prompt_token_ids"]
    assert answer["prompt_token_ids"] == prompt
    assert answer["choices"][0]["token_ids"] == prompt[:1]


def test_the_best_of_several_are_returned_likeliest_first(server: RunningServer) -> None:
    """At place 3 with seed s, the token is the s mod 3 + 1st likeliest."""
    params = {"max_tokens": 1, "seed": 2, "logprobs": 0, "best_of": 3}
    body = server.complete("abc", n=2, **params).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    logprobs = [choice["logprobs"]["token_logprobs"] for choice in body["choices"]]
    assert logprobs == [[-0.25], [-0.5]]
    # What was thrown away was generated all the same.
    assert body["usage"]["completion_tokens"] == 3
    assert body["usage"]["prompt_tokens"] == 3
    body = server.complete(["abc", "abc"], n=1, **params).json()
    logprobs = [choice["logprobs"]["token_logprobs"] for choice in body["choices"]]
    assert logprobs == [[-0.25], [-0.25]]


def test_best_of_needs_no_logprobs_in_the_answer(server: RunningServer) -> None:
    choice = choice_of(server, "abc", best_of=3, echo=True, max_tokens=1)
    assert (choice["text"], choice["logprobs"]) == ("abca", None)


@pytest.mark.parametrize("include", [False, True])
def test_usage_so_far_in_every_chunk(server: RunningServer, include: bool) -> None:
    options = {"include_usage": include, "continuous_usage_stats": True}
    chunks = chunks_of(
        server, "/v1/completions", prompt="abc", max_tokens=3, stream_options=options
    )
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == ([1, 2, 3, 3] if include else [1, 2, 3])
    assert all(chunk["usage"]["prompt_tokens"] == 3 for chunk in chunks)


def test_a_prompt_without_special_tokens(server: RunningServer, tokenizer: TextTokenizer) -> None:
    # The tiny model's tokenizer adds none, so both are the same; the template does.
    choice_of(server, "abc", add_special_tokens=False)
    assert last_prompt(server, tokenizer) == "abc"


def test_how_a_conversation_ends(server: RunningServer, tokenizer: TextTokenizer) -> None:
    begun = f"{BOS}user: hello\n"
    chat(server)
    assert last_prompt(server, tokenizer) == f"{begun}assistant: "
    chat(server, add_generation_prompt=False)
    assert last_prompt(server, tokenizer) == begun
    answer = {"role": "assistant", "content": "It is "}
    for more in ({}, {"add_generation_prompt": False}):
        chat(server, USER, answer, continue_final_message=True, **more)
        assert last_prompt(server, tokenizer) == f"{begun}assistant: It is "


def test_priority_reaches_the_engine(server: RunningServer) -> None:
    choice_of(server, "abc", priority=5)
    assert last_request(server)["priority"] == 5
    choice_of(server, "abc", priority=-5)  # without keys, everybody may
    assert last_request(server)["priority"] == -5


def test_only_admins_go_before_everybody_else() -> None:
    someone = Principal("k", "t", frozenset({Role.INFERENCE}), None)
    admission.require_priority(0, someone)
    with pytest.raises(MotetError) as caught:
        admission.require_priority(-1, someone)
    assert (caught.value.code, caught.value.param) == ("insufficient_permissions", "priority")


def test_salted_prefixes_are_apart_from_all_others(start_server: StartServer) -> None:
    with start_server(api_key="api-key", admin_key="admin-key") as server:

        def cached(key: str, **params: object) -> int:
            response = server.post(
                "/v1/completions",
                {"model": BASE, "prompt": "abcdefgh", "max_tokens": 1, **params},
                headers={"Authorization": f"Bearer {key}"},
            )
            usage = response.json()["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert [cached("api-key", cache_salt="one") for _ in range(2)] == [0, 7]
        assert cached("api-key", cache_salt="two") == 0
        assert cached("api-key") == 0
        # Another tenant with the same salt is as far away as with any other.
        assert cached("admin-key", cache_salt="one") == 0
        assert "one" not in {event["prefix_scope"] for event in server.events("AddRequest")}


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"prompt": ["a"] * 9, "n": 16}, "n"),
        ({"prompt": ["a"] * 9, "best_of": 16}, "n"),
        ({"prompt": "a", "n": 16, "max_tokens": 65537}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 2**62}, "max_tokens"),
        (
            {"prompt": [[1] * 2000] * 16, "n": 2, "prompt_logprobs": 20},
            "prompt_logprobs",
        ),
        ({"prompt": [[1] * 2000] * 32, "echo": True, "logprobs": 20}, "logprobs"),
    ],
)
def test_too_much_at_once_is_refused_before_any_work(
    server: RunningServer, params: dict[str, Any], param: str
) -> None:
    num_before = len(server.events("AddRequest"))
    assert_error(server.complete(**params), 400, "invalid_value", param)
    assert len(server.events("AddRequest")) == num_before
    assert server.complete(["a"] * 8, n=16, max_tokens=1).status_code == 200


def test_what_nobody_limited_is_shared_out(start_server: StartServer) -> None:
    """A chat may take what there is, up to its share of what one request may."""
    with start_server(engine={"max_model_len": 1 << 21, "num_pages": 1 << 18}) as server:
        body = {"model": BASE, "messages": [USER], "n": 16, "stop": "user"}
        response = server.post("/v1/chat/completions", body)
        assert response.status_code == 200, response.text
        assert last_request(server)["sampling"]["max_tokens"] == (1 << 20) // 16
