"""The tokenizer over HTTP: what it says is what generation works with."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from transformers import AutoTokenizer

from motet.server.tokenizer import TextTokenizer
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer
from tests.server.tiny_model import BOS, CHAT_TEMPLATE, END_OF_TURN, EOS

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüß dich"}]


def answer(server: RunningServer, path: str, **body: object) -> dict[str, object]:
    response = server.post(path, body)
    assert response.status_code == 200, response.text
    value: dict[str, object] = response.json()
    return value


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
@pytest.mark.parametrize("model", [BASE, "red", None])
def test_a_text_becomes_the_tokens_that_generation_gets(
    server: RunningServer, path: str, model: str | None
) -> None:
    told = answer(server, path, model=model, prompt="ab\u20ac", return_token_strs=True)
    assert server.complete("ab\u20ac", max_tokens=1).status_code == 200
    tokens = server.events("AddRequest")[-1]["prompt_token_ids"]
    assert told == {
        "count": 5,
        "max_model_len": 512,
        "tokens": tokens,
        "token_strs": ["a", "b", "â", "Ĥ", "¬"],
    }


def test_token_strings_come_only_if_asked_for(server: RunningServer) -> None:
    assert answer(server, "/tokenize", prompt="")["token_strs"] is None
    assert answer(server, "/tokenize", prompt="", return_token_strs=True)["token_strs"] == []


def test_a_conversation_becomes_the_tokens_that_a_chat_gets(server: RunningServer) -> None:
    """Generation parameters may stay in the body: it can be the very one of the chat."""
    body = {"model": BASE, "messages": MESSAGES, "max_tokens": 1, "temperature": 0.5}
    told = answer(server, "/tokenize", **body, return_token_strs=True)
    assert server.post("/v1/chat/completions", body).status_code == 200
    assert told["tokens"] == server.events("AddRequest")[-1]["prompt_token_ids"]
    strings = told["token_strs"]
    assert isinstance(strings, list)
    assert strings[:7] == [BOS, *"system"]
    assert told["count"] == len(strings)


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize"])
def test_tokens_become_text_again(server: RunningServer, path: str) -> None:
    text = f"{BOS}Gr\u00fc\u00df dich{END_OF_TURN}"
    tokens = answer(server, "/tokenize", prompt=text)["tokens"]
    told = answer(server, path, tokens=tokens)
    assert told == {"prompt": text, "text": text}
    told = answer(server, path, model="red", tokens=tokens, skip_special_tokens=True)
    assert told["prompt"] == "Gr\u00fc\u00df dich"
    assert answer(server, path, tokens=[])["prompt"] == ""


@given(text=st.text(max_size=40))
def test_any_text_comes_back(tokenizer: TextTokenizer, text: str) -> None:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> TextTokenizer:
    return TextTokenizer.from_dir(model_dir)


@pytest.mark.parametrize("path", ["/tokenizer_info", "/v1/tokenizer_info"])
def test_the_info_suffices_to_tokenize_elsewhere(
    server: RunningServer, model_dir: Path, path: str
) -> None:
    """As a harness does it: render the template there, have the text tokenized here."""
    info = server.get(path).json()
    assert info["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == (BOS, EOS, None)
    assert info["model_max_length"] == 512
    assert info["chat_template"] == CHAT_TEMPLATE
    theirs = AutoTokenizer.from_pretrained(model_dir)
    assert {int(id_): token["content"] for id_, token in info["added_tokens_decoder"].items()} == {
        id_: token.content for id_, token in theirs.added_tokens_decoder.items()
    }
    template = Environment().from_string(info["chat_template"])
    text = template.render(messages=MESSAGES, add_generation_prompt=True, **info)
    tokens = answer(server, "/tokenize", prompt=text, add_special_tokens=False)["tokens"]
    assert tokens == answer(server, "/tokenize", messages=MESSAGES)["tokens"]


def test_the_info_names_no_files(server: RunningServer, model_dir: Path) -> None:
    assert str(model_dir) not in server.get("/tokenizer_info").text


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/tokenize", {}, "missing_required_parameter", "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "invalid_type", "prompt"),
        ("/tokenize", {"prompt": "a", "promt": "b"}, "unknown_parameter", "promt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "invalid_value", "prompt"),
        ("/tokenize", {"prompt": "a", "return_token_strs": 1}, "invalid_type", "return_token_strs"),
        ("/tokenize", {"messages": []}, "invalid_value", "messages"),
        (
            "/tokenize",
            {"messages": MESSAGES, "return_token_strs": "yes"},
            "invalid_type",
            "return_token_strs",
        ),
        ("/tokenize", {"messages": MESSAGES[:1] * 2}, "invalid_value", "messages"),
        ("/tokenize", {"messages": MESSAGES, "nonsense": 1}, "unknown_parameter", "nonsense"),
        ("/tokenize", {"messages": MESSAGES, "model": "green"}, "model_not_found", "model"),
        ("/tokenize", {"prompt": "a", "model": "green"}, "model_not_found", "model"),
        ("/detokenize", {"tokens": [1], "model": "green"}, "model_not_found", "model"),
        ("/detokenize", {}, "missing_required_parameter", "tokens"),
        ("/detokenize", {"tokens": [-1]}, "invalid_value", "tokens[0]"),
        ("/detokenize", {"tokens": [True]}, "invalid_type", "tokens[0]"),
        ("/detokenize", {"tokens": [2**70]}, "invalid_type", "tokens[0]"),
        ("/detokenize", {"tokens": [259]}, "invalid_value", "tokens"),
        ("/detokenize", {"tokens": "abc"}, "invalid_type", "tokens"),
    ],
)
def test_what_is_wrong_is_named(
    server: RunningServer, path: str, body: dict[str, object], code: str, param: str
) -> None:
    response = server.post(path, body)
    assert response.status_code == (404 if code == "model_not_found" else 400)
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error


def test_they_need_the_key_that_generation_needs(start_server: StartServer) -> None:
    with start_server(api_key="secret") as guarded:
        for path in ("/tokenize", "/v1/tokenize", "/detokenize", "/v1/detokenize"):
            assert guarded.post(path, {"prompt": "a", "tokens": [1]}).status_code == 401
        for path in ("/tokenizer_info", "/v1/tokenizer_info"):
            assert guarded.get(path).status_code == 401
            headers = {"Authorization": "Bearer secret"}
            assert guarded.get(path, headers=headers).status_code == 200
