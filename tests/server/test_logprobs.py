"""Log probabilities over HTTP: both formats, whole and streamed, with echo, and for prompts."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from motet.server.tokenizer import TextTokenizer
from tests.server.fake_engine import scripted_logprobs
from tests.server.running_server import BASE, RunningServer
from tests.server.tiny_model import END_OF_TURN

VOCAB_SIZE = 259
USER = {"role": "user", "content": "hello"}
CHAT_PROMPT = "\0user: hello\nassistant: "  # "\0" stands for a token without text


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> TextTokenizer:
    return TextTokenizer.from_dir(model_dir)


def complete(server: RunningServer, prompt: object, **params: object) -> dict[str, Any]:
    response = server.complete(prompt, **params)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    Completion.model_validate(as_declared(body), strict=True)
    for choice in body["choices"]:
        assert {"index", "text", "logprobs", "finish_reason"} <= set(choice)
        if choice["logprobs"] is not None:
            assert_whole(choice["logprobs"])
    return body


def as_declared(body: dict[str, Any]) -> dict[str, Any]:
    """With numbers for the null of a prompt's first token, which OpenAI sends but did not declare.

    Chunks are declared as whole completions, which all have a reason to have finished.
    """
    body = copy.deepcopy(body)
    for choice in body["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        if choice["logprobs"] is not None and choice["logprobs"]["token_logprobs"][:1] == [None]:
            choice["logprobs"]["token_logprobs"][0] = 0.0
            choice["logprobs"]["top_logprobs"][0] = {}
    return body


def assert_whole(logprobs: dict[str, Any]) -> None:
    """All four keys, as many entries in each; what is told is among the told likeliest."""
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert len({len(each) for each in logprobs.values()}) == 1
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    for token, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        if logprob is None:
            assert top is None
        else:
            assert token in top
            assert max(top.values()) == -0.25  # the scripted likeliest


def chunks_of(server: RunningServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = server.post(path, {"model": BASE, "stream": True, **body})
    assert response.status_code == 200, response.text
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The logprobs objects of chunks as one."""
    return {key: [each for part in parts for each in part[key]] for key in parts[0]}


def test_a_completion_without_them_says_so(server: RunningServer) -> None:
    assert complete(server, "abc")["choices"][0]["logprobs"] is None


def test_a_completion_tells_each_token(server: RunningServer) -> None:
    [choice] = complete(server, "abc", max_tokens=4, logprobs=2, seed=0)["choices"]
    logprobs = choice["logprobs"]
    assert choice["text"] == "abca"
    assert logprobs["tokens"] == ["a", "b", "c", "a"]
    # Places 3 to 6 of the sequence: first, second, third, first likeliest.
    assert logprobs["token_logprobs"] == [-0.25, -0.5, -0.75, -0.25]
    # The two likeliest, and the token itself where it is not one of them.
    assert [len(top) for top in logprobs["top_logprobs"]] == [2, 2, 3, 2]
    assert logprobs["text_offset"] == [0, 1, 2, 3]


def test_none_of_the_likeliest_still_tells_the_likeliest(server: RunningServer) -> None:
    [choice] = complete(server, "abc", max_tokens=3, logprobs=0, seed=0)["choices"]
    assert [len(top) for top in choice["logprobs"]["top_logprobs"]] == [1, 2, 2]


@pytest.mark.parametrize("stop", [None, ["cab"], ["zz", "b"]])
def test_a_streamed_completion_tells_the_same(server: RunningServer, stop: object) -> None:
    params: dict[str, Any] = {"max_tokens": 7, "logprobs": 3, "seed": 0, "stop": stop, "echo": True}
    [whole] = complete(server, "a€bc", **params)["choices"]
    chunks = chunks_of(server, "/v1/completions", {"prompt": "a€bc", **params})
    for chunk in chunks:
        Completion.model_validate(as_declared(chunk), strict=True)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    assert joined([choice["logprobs"] for choice in choices]) == whole["logprobs"]


def test_tokens_that_a_stop_string_hides_are_not_told(server: RunningServer) -> None:
    body = complete(server, "abcdef", max_tokens=6, logprobs=1, stop="cd")
    [choice] = body["choices"]
    assert choice["text"] == "ab"
    assert choice["logprobs"]["tokens"] == ["a", "b"]
    assert body["usage"]["completion_tokens"] == 4
    shown = complete(
        server, "abcdef", max_tokens=6, logprobs=1, stop="cd", include_stop_str_in_output=True
    )["choices"][0]
    assert shown["text"] == "abcd"
    assert shown["logprobs"]["tokens"] == ["a", "b", "c", "d"]


def test_parts_of_characters_are_told_as_bytes(server: RunningServer) -> None:
    [choice] = complete(server, "€", max_tokens=3, logprobs=1)["choices"]
    assert choice["text"] == "€"
    assert choice["logprobs"]["tokens"] == ["bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert choice["logprobs"]["text_offset"] == [0, 0, 0]


def test_the_token_that_ends_an_answer_is_told(server: RunningServer) -> None:
    """It has no text, but it is what the model chose."""
    [choice] = complete(server, f"ab{END_OF_TURN}", max_tokens=9, logprobs=1)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "stop")
    assert choice["logprobs"]["tokens"] == ["a", "b", END_OF_TURN]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]


@pytest.mark.parametrize("as_ids", [False, True])
def test_echo_tells_the_prompt_first(
    server: RunningServer, tokenizer: TextTokenizer, as_ids: bool
) -> None:
    prompt = tokenizer.encode("aüb") if as_ids else "aüb"
    params = {"max_tokens": 2, "logprobs": 2, "echo": True, "seed": 0}
    [choice] = complete(server, prompt, **params)["choices"]
    assert choice["text"].startswith("aüba")
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xbc", "b", "a", "bytes:\\xc3"]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.75, -0.25, -0.5, -0.75]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"] == [0, 1, 1, 2, 3, 4]


def test_echo_alone_tells_no_tokens(server: RunningServer) -> None:
    [choice] = complete(server, "abc", max_tokens=2, echo=True)["choices"]
    assert (choice["text"], choice["logprobs"]) == ("abcab", None)
    assert server.events("AddRequest")[-1]["sampling"]["num_prompt_logprobs"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_alone_may_be_scored(server: RunningServer, stream: bool) -> None:
    params: dict[str, Any] = {"max_tokens": 0, "logprobs": 1, "echo": True}
    if stream:
        [chunk] = chunks_of(server, "/v1/completions", {"prompt": "abcd", **params})
        [choice] = chunk["choices"]
    else:
        body = complete(server, "abcd", **params)
        assert body["usage"]["completion_tokens"] == 0
        [choice] = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abcd", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -0.75, -0.25]


def test_a_prompt_of_one_token_has_nothing_to_score(server: RunningServer) -> None:
    [choice] = complete(server, "a", max_tokens=0, logprobs=1, echo=True)["choices"]
    assert choice["logprobs"] == {
        "tokens": ["a"],
        "token_logprobs": [None],
        "top_logprobs": [None],
        "text_offset": [0],
    }


def test_nothing_at_all_may_be_generated(server: RunningServer) -> None:
    [choice] = complete(server, "abc", max_tokens=0)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")


@pytest.mark.parametrize("stream", [False, True])
def test_echo_of_several_prompts_and_choices(server: RunningServer, stream: bool) -> None:
    prompts = ["ab", "wxyz"]
    params: dict[str, Any] = {
        "max_tokens": 2,
        "logprobs": 1,
        "echo": True,
        "n": 2,
        "prompt": prompts,
    }
    if not stream:
        choices = complete(server, **params)["choices"]
        texts = {choice["index"]: choice["text"] for choice in choices}
        tokens = {choice["index"]: choice["logprobs"]["tokens"] for choice in choices}
        offsets = {choice["index"]: choice["logprobs"]["text_offset"] for choice in choices}
    else:
        texts, tokens, offsets = dict.fromkeys(range(4), ""), {}, {}
        for chunk in chunks_of(server, "/v1/completions", params):
            [choice] = chunk["choices"]
            index = choice["index"]
            texts[index] += choice["text"]
            tokens[index] = tokens.get(index, []) + choice["logprobs"]["tokens"]
            offsets[index] = offsets.get(index, []) + choice["logprobs"]["text_offset"]
    assert texts == {0: "abab", 1: "abab", 2: "wxyzwx", 3: "wxyzwx"}
    assert {index: "".join(each) for index, each in tokens.items()} == texts
    assert offsets == {index: list(range(len(text))) for index, text in texts.items()}


@pytest.mark.parametrize("last", ["d", END_OF_TURN])
def test_the_harness_reads_the_likelihood_of_a_continuation(
    server: RunningServer, tokenizer: TextTokenizer, last: str
) -> None:
    """As lm-evaluation-harness asks, and as it reads the answer.

    The token that is generated may be one that ends the answer; it is there all the same.
    """
    context, continuation = tokenizer.encode(f"{last}bc"), tokenizer.encode("xyz")
    batch = [context + continuation, tokenizer.encode(last) + continuation]
    body = complete(server, batch, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234)
    for choice, ids, num_context in zip(
        sorted(body["choices"], key=lambda each: each["index"]),
        batch,
        (len(context), 1),
        strict=True,
    ):
        told = choice["logprobs"]["token_logprobs"]
        tops = choice["logprobs"]["top_logprobs"]
        assert len(told) == len(ids) + 1
        expected = [
            scripted_logprobs(token, place, 1, vocab_size=VOCAB_SIZE).logprob
            for place, token in enumerate(ids)
        ]
        assert told[num_context:-1] == expected[num_context:]
        is_greedy = [
            logprob == max(top.values())
            for logprob, top in zip(told[num_context:-1], tops[num_context:-1], strict=True)
        ]
        assert is_greedy == [place % 3 == 0 for place in range(num_context, len(ids))]


def test_a_chat_tells_each_token(server: RunningServer, tokenizer: TextTokenizer) -> None:
    body = {"model": BASE, "messages": [{"role": "user", "content": "€"}], "max_tokens": 10}
    answer = server.post(
        "/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": 2, "seed": 0}
    ).json()
    ChatCompletion.model_validate(answer, strict=True)
    logprobs = answer["choices"][0]["logprobs"]
    assert set(logprobs) == {"content", "refusal"}
    content = logprobs["content"]
    for token in content:
        assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
        assert [set(each) for each in token["top_logprobs"]] == [{"token", "logprob", "bytes"}] * 2
    # The first token of the prompt is special: it has no text in the answer, but a name.
    assert (content[0]["token"], content[0]["bytes"]) == ("<bos>", None)
    text = b"".join(bytes(each["bytes"] or []) for each in content)
    assert text.decode() == answer["choices"][0]["message"]["content"]
    assert [each["token"] for each in content[7:10]] == ["\\xe2", "\\x82", "\\xac"]


def test_special_tokens_have_bytes_where_they_have_text(server: RunningServer) -> None:
    body = {"model": BASE, "messages": [USER], "max_tokens": 2, "logprobs": True}
    answer = server.post("/v1/chat/completions", {**body, "skip_special_tokens": False}).json()
    [choice] = answer["choices"]
    text = b"".join(bytes(each["bytes"]) for each in choice["logprobs"]["content"])
    assert text.decode() == choice["message"]["content"] == "<bos>u"


def test_a_chat_may_tell_none_of_the_likeliest(server: RunningServer) -> None:
    body = {"model": BASE, "messages": [USER], "max_tokens": 2, "logprobs": True}
    answer = server.post("/v1/chat/completions", body).json()
    content = answer["choices"][0]["logprobs"]["content"]
    assert [each["top_logprobs"] for each in content] == [[], []]
    assert server.events("AddRequest")[-1]["sampling"]["num_logprobs"] == 0


@pytest.mark.parametrize("stop", [None, "hello"])
def test_a_streamed_chat_tells_the_same(server: RunningServer, stop: object) -> None:
    body = {
        "model": BASE,
        "messages": [USER],
        "max_tokens": 14,
        "seed": 0,
        "stop": stop,
        "logprobs": True,
        "top_logprobs": 3,
        "return_token_ids": True,
    }
    whole = server.post("/v1/chat/completions", body).json()
    chunks = chunks_of(server, "/v1/chat/completions", body)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    choices = [chunk["choices"][0] for chunk in chunks]
    content = [
        each for choice in choices if choice["logprobs"] for each in choice["logprobs"]["content"]
    ]
    assert content == whole["choices"][0]["logprobs"]["content"]
    ids = [each for choice in choices for each in choice.get("token_ids", [])]
    assert ids == whole["choices"][0]["token_ids"]
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert all("prompt_token_ids" not in chunk for chunk in chunks[1:])


def test_the_client_reads_both_formats(server: RunningServer) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    completion = client.completions.create(
        model=BASE, prompt="abc", logprobs=5, echo=True, max_tokens=1
    )
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.tokens == ["a", "b", "c", "a"]
    chat = client.chat.completions.create(
        model=BASE, messages=[USER], logprobs=True, top_logprobs=20, max_tokens=1
    )
    assert chat.choices[0].logprobs is not None
    assert chat.choices[0].logprobs.content is not None
    assert len(chat.choices[0].logprobs.content[0].top_logprobs) == 20


@pytest.mark.parametrize("num_top", [0, 1, 3])
def test_prompt_logprobs_are_by_token_id(
    server: RunningServer, tokenizer: TextTokenizer, num_top: int
) -> None:
    """vLLM's form: beside each choice of a completion, and beside the choices of a chat."""
    ids = tokenizer.encode("aü")
    [choice] = complete(server, "aü", max_tokens=1, prompt_logprobs=num_top)["choices"]
    first, *rest = choice["prompt_logprobs"]
    assert first is None
    for place, (token_id, told) in enumerate(zip(ids[1:], rest, strict=True), start=1):
        script = scripted_logprobs(token_id, place, num_top, vocab_size=VOCAB_SIZE)
        assert set(told) == {str(each) for each in (token_id, *script.top_token_ids)}
        assert told[str(token_id)]["logprob"] == script.logprob
        assert told[str(token_id)]["rank"] == script.rank
        assert all(set(each) == {"logprob", "rank", "decoded_token"} for each in told.values())
        assert all(each["logprob"] == each["rank"] / -4 for each in told.values())
    chat = server.post(
        "/v1/chat/completions",
        {"model": BASE, "messages": [USER], "max_tokens": 1, "prompt_logprobs": num_top},
    ).json()
    ChatCompletion.model_validate(chat, strict=True)
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    assert chat["prompt_logprobs"][0] is None
    assert "prompt_logprobs" not in chat["choices"][0]


def test_echo_and_prompt_logprobs_are_each_as_many_as_asked_for(server: RunningServer) -> None:
    [choice] = complete(
        server, "aaa", max_tokens=1, echo=True, logprobs=1, prompt_logprobs=3, seed=0
    )["choices"]
    assert [len(top) for top in choice["logprobs"]["top_logprobs"][1:]] == [2, 2, 1]
    assert [len(told) for told in choice["prompt_logprobs"][1:]] == [3, 3]
