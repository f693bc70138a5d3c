"""Any value in any parameter is done or refused, and every answer holds together."""

from typing import Any

import httpx2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motet.server.protocol import ALL_PARAMETERS, ChatRequest, CompletionRequest
from tests.server.running_server import BASE, RunningServer

USER = {"role": "user", "content": "hi €"}

garbage = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
small = st.integers(0, 5)
# Values that pass by themselves, so that whole requests do, and parameters meet each other.
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": small,
    "min_tokens": st.integers(0, 2),
    "n": st.integers(1, 3),
    "best_of": st.integers(1, 3),
    "echo": st.booleans(),
    "prompt_logprobs": small,
    "return_token_ids": st.booleans(),
    "stop": st.text("ab€", min_size=1, max_size=2),
    "include_stop_str_in_output": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "ignore_eos": st.booleans(),
    "stop_token_ids": st.lists(st.integers(0, 258), max_size=2),
    "logit_bias": st.dictionaries(st.integers(0, 258).map(str), st.floats(-100, 100), max_size=2),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "priority": st.integers(-9, 9),
    "cache_salt": st.text(min_size=1, max_size=5),
    "user": st.text(max_size=5),
    "add_special_tokens": st.booleans(),
    "stream": st.booleans(),
}
GOOD_COMPLETION = {
    **GOOD,
    "logprobs": small,
    "prompt": st.text("ab€", min_size=1, max_size=5)
    | st.lists(st.integers(10, 258), min_size=1, max_size=5)
    | st.lists(st.text("ab€", min_size=1, max_size=5), min_size=1, max_size=3),
}
GOOD_CHAT = {
    **{name: values for name, values in GOOD.items() if name not in ("best_of", "echo")},
    "logprobs": st.booleans(),
    "top_logprobs": small,
    "add_generation_prompt": st.booleans(),
    "continue_final_message": st.booleans(),
    "chat_template_kwargs": st.just({"enable_thinking": False}),
}

# Some prompts make the fake engine fail, so they are not drawn at random.
OTHERS = sorted(ALL_PARAMETERS - {"prompt"})

fuzz = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def bodies(good: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=good)


def assert_done_or_refused(response: httpx2.Response, body: dict[str, Any]) -> None:
    assert response.status_code in (200, 400), (body, response.text)
    if response.status_code == 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    elif "stream" in body and body["stream"] is True:
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in response.text
    else:
        answer = response.json()
        for choice in answer["choices"]:
            told = choice["logprobs"]
            assert choice["finish_reason"] in ("stop", "length")
            if told is not None and "content" not in told:
                assert len({len(each) for each in told.values()}) == 1
                assert told["text_offset"] == sorted(told["text_offset"])
                assert all(each <= len(choice["text"]) for each in told["text_offset"])
            if told is not None and "token_ids" in choice and not body.get("echo"):
                assert len(choice["token_ids"]) == len(told.get("content", told.get("tokens")))


@fuzz
@given(bodies(GOOD_COMPLETION))
def test_completions_of_good_values(server: RunningServer, body: dict[str, Any]) -> None:
    response = server.complete(**{"prompt": "a€", "max_tokens": 3, **body})
    assert_done_or_refused(response, body)


@fuzz
@given(bodies(GOOD_CHAT))
def test_chats_of_good_values(server: RunningServer, body: dict[str, Any]) -> None:
    whole = {"model": BASE, "messages": [USER], "max_tokens": 3, **body}
    assert_done_or_refused(server.post("/v1/chat/completions", whole), body)


@fuzz
@given(st.dictionaries(st.sampled_from(OTHERS), garbage, min_size=1, max_size=2))
def test_any_value_at_all(server: RunningServer, body: dict[str, Any]) -> None:
    for path, model, prompt in (
        ("/v1/completions", CompletionRequest, {"prompt": "a"}),
        ("/v1/chat/completions", ChatRequest, {"messages": [USER]}),
    ):
        known = {name: value for name, value in body.items() if name in model.model_fields}
        whole = {"model": BASE, **prompt, "max_tokens": 2, **known}
        response = server.post(path, whole)
        if response.status_code == 404:
            assert response.json()["error"]["code"] == "model_not_found"
        else:
            assert_done_or_refused(response, known)
