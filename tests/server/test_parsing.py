"""Request bodies: what is accepted, and how every mistake is named."""

from typing import Any

import pytest

from motet.core.errors import MotetError
from motet.server.parameters import drop_idle_chat_parameters, drop_idle_completion_parameters
from motet.server.parsing import parse
from motet.server.protocol import ChatRequest, CompletionRequest

USER = {"role": "user", "content": "hi"}


def completion(**body: Any) -> CompletionRequest:
    whole = {"model": "m", "prompt": "x", **body}
    return parse(CompletionRequest, drop_idle_completion_parameters(whole))


def chat(**body: Any) -> ChatRequest:
    whole = {"model": "m", "messages": [USER], **body}
    return parse(ChatRequest, drop_idle_chat_parameters(whole))


def completion_error(**body: Any) -> MotetError:
    with pytest.raises(MotetError) as caught:
        completion(**body)
    return caught.value


def chat_error(**body: Any) -> MotetError:
    with pytest.raises(MotetError) as caught:
        chat(**body)
    return caught.value


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("text", ["text"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_of_all_four_kinds(prompt: object, prompts: list[object]) -> None:
    assert completion(prompt=prompt).prompt == prompts


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("", "invalid_value"),
        ([], "invalid_value"),
        (["a", ""], "invalid_value"),
        ([[1], []], "invalid_value"),
        (["a"] * 65, "invalid_value"),
        ([1, "a"], "invalid_type"),
        ([1, True], "invalid_type"),
        ([1, -1], "invalid_type"),
        ([1.0], "invalid_type"),
        (5, "invalid_type"),
        ({"text": "a"}, "invalid_type"),
    ],
)
def test_prompts_that_are_none(prompt: object, code: str) -> None:
    error = completion_error(prompt=prompt)
    assert (error.code, error.param) == (code, "prompt")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("temperature", 2.1, "invalid_value"),
        ("temperature", -0.1, "invalid_value"),
        ("temperature", "1", "invalid_type"),
        ("temperature", True, "invalid_type"),
        ("temperature", float("nan"), "invalid_value"),
        ("temperature", float("inf"), "invalid_value"),
        ("top_p", 0, "invalid_value"),
        ("top_p", 1.01, "invalid_value"),
        ("top_k", -2, "invalid_value"),
        ("top_k", 1.5, "invalid_type"),
        ("min_p", 1.1, "invalid_value"),
        ("seed", 2**63, "invalid_value"),
        ("seed", "7", "invalid_type"),
        ("n", 0, "invalid_value"),
        ("n", 17, "invalid_value"),
        ("n", True, "invalid_type"),
        ("max_tokens", -1, "invalid_value"),
        ("max_tokens", "5", "invalid_type"),
        ("max_tokens", 5.0, "invalid_type"),
        ("stop", ["a"] * 5, "invalid_value"),
        ("stop", 3, "invalid_type"),
        ("stop_token_ids", 3, "invalid_type"),
        ("ignore_eos", 1, "invalid_type"),
        ("min_tokens", -1, "invalid_value"),
        ("min_tokens", True, "invalid_type"),
        ("include_stop_str_in_output", "yes", "invalid_type"),
        ("skip_special_tokens", 0, "invalid_type"),
        ("logit_bias", [[5, 1]], "invalid_type"),
        ("logit_bias", {"5": "1"}, "invalid_type"),
        ("logit_bias", {"5": True}, "invalid_type"),
        ("logit_bias", {"5": None}, "invalid_type"),
        ("logit_bias", {"5": 100.5}, "invalid_value"),
        ("logit_bias", {"5": -101}, "invalid_value"),
        ("logit_bias", {"5": float("nan")}, "invalid_value"),
        ("logit_bias", {"five": 1}, "invalid_value"),
        ("logit_bias", {"-5": 1}, "invalid_value"),
        ("logit_bias", {"05": 1}, "invalid_value"),
        ("logit_bias", {"\u0665": 1}, "invalid_value"),
        ("logit_bias", {"5" * 4000: 1}, "invalid_value"),
        ("logit_bias", {str(each): 1 for each in range(1025)}, "invalid_value"),
        ("prompt_logprobs", -1, "invalid_value"),
        ("prompt_logprobs", 21, "invalid_value"),
        ("prompt_logprobs", True, "invalid_type"),
        ("return_token_ids", 1, "invalid_type"),
        ("add_special_tokens", "no", "invalid_type"),
        ("priority", 2**31, "invalid_value"),
        ("priority", 1.5, "invalid_type"),
        ("cache_salt", "", "invalid_value"),
        ("cache_salt", "x" * 257, "invalid_value"),
        ("cache_salt", 5, "invalid_type"),
        ("user", 5, "invalid_type"),
        ("user", "x" * 513, "invalid_value"),
        ("repetition_penalty", 0, "invalid_value"),
        ("repetition_penalty", 2.1, "invalid_value"),
        ("presence_penalty", -2.1, "invalid_value"),
        ("frequency_penalty", 2.1, "invalid_value"),
        ("stream", "true", "invalid_type"),
        ("stream", 1, "invalid_type"),
        ("model", 5, "invalid_type"),
        ("model", "", "invalid_value"),
        ("stream_options", {"include_usage": True}, "invalid_value"),
    ],
)
def test_wrong_values_are_refused_by_both_endpoints(name: str, value: object, code: str) -> None:
    for error in (completion_error(**{name: value}), chat_error(**{name: value})):
        assert (error.code, error.param) == (code, name)
        assert name in error.message


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("logprobs", 21, "invalid_value"),
        ("logprobs", -1, "invalid_value"),
        ("logprobs", True, "invalid_type"),
        ("logprobs", 1.0, "invalid_type"),
        ("echo", 1, "invalid_type"),
        ("best_of", 0, "invalid_value"),
        ("best_of", 17, "invalid_value"),
        ("best_of", True, "invalid_type"),
        ("top_logprobs", 1, "unknown_parameter"),
        ("continue_final_message", True, "unknown_parameter"),
    ],
)
def test_wrong_values_of_completions(name: str, value: object, code: str) -> None:
    error = completion_error(**{name: value})
    assert (error.code, error.param) == (code, name)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"logprobs": 1}, "logprobs", "invalid_type"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs", "invalid_type"),
        ({"top_logprobs": 1}, "top_logprobs", "invalid_value"),
        ({"logprobs": False, "top_logprobs": 1}, "top_logprobs", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        ({"best_of": 1}, "best_of", "unknown_parameter"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "invalid_value",
        ),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs", "invalid_type"),
        *(
            (
                {"chat_template_kwargs": {name: value}},
                f"chat_template_kwargs.{name}",
                "unknown_parameter",
            )
            for name, value in {
                "tokenize": False,
                "chat_template": "{{ 1 }}",
                "tools": [],
                "documents": [],
                "messages": [],
                "bos_token": "x",
                "add_generation_prompt": False,
            }.items()
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": "no"}},
            "chat_template_kwargs.enable_thinking",
            "invalid_type",
        ),
    ],
)
def test_wrong_values_of_chats(body: dict[str, Any], param: str, code: str) -> None:
    error = chat_error(**body)
    assert (error.code, error.param) == (code, param)


def test_no_tokens_at_all_may_be_asked_for_of_a_completion() -> None:
    assert completion(max_tokens=0).max_tokens == 0


def test_biases_are_by_token_id() -> None:
    assert completion(logit_bias={"0": -100, "50256": 0.5}).logit_bias == {0: -100.0, 50256: 0.5}


def test_the_best_of_fewer_than_are_returned() -> None:
    error = completion_error(n=3, best_of=2)
    assert (error.code, error.param) == ("invalid_value", "best_of")


def test_the_best_are_not_known_in_a_stream() -> None:
    error = completion_error(n=2, best_of=3, stream=True)
    assert (error.code, error.param) == ("unsupported_parameter", "best_of")
    assert completion(n=2, best_of=2, stream=True).num_candidates == 2


def test_prompt_logprobs_are_not_streamed() -> None:
    for error in (
        completion_error(prompt_logprobs=0, stream=True),
        chat_error(prompt_logprobs=0, stream=True),
    ):
        assert (error.code, error.param) == ("invalid_value", "prompt_logprobs")


@pytest.mark.parametrize(
    ("body", "num_logprobs", "num_prompt_logprobs"),
    [
        ({}, None, None),
        ({"logprobs": 0}, 1, None),  # the likeliest is always told
        ({"logprobs": 5}, 5, None),
        ({"logprobs": 5, "echo": True}, 5, 5),
        ({"logprobs": 0, "echo": True}, 1, 1),
        ({"echo": True}, None, None),
        ({"prompt_logprobs": 0}, None, 0),
        ({"logprobs": 2, "echo": True, "prompt_logprobs": 3}, 2, 3),
        ({"best_of": 2}, 0, None),
        ({"best_of": 2, "n": 2}, None, None),
        ({"best_of": 2, "logprobs": 4}, 4, None),
    ],
)
def test_what_the_engine_has_to_report_of_a_completion(
    body: dict[str, Any], num_logprobs: int | None, num_prompt_logprobs: int | None
) -> None:
    params = completion(**body)
    assert params.num_logprobs == num_logprobs
    assert params.num_prompt_logprobs == num_prompt_logprobs


@pytest.mark.parametrize(
    ("body", "num_logprobs"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_what_the_engine_has_to_report_of_a_chat(
    body: dict[str, Any], num_logprobs: int | None
) -> None:
    assert chat(**body).num_logprobs == num_logprobs
    assert chat(**body, prompt_logprobs=3).num_prompt_logprobs == 3


def test_names_in_errors_are_cut() -> None:
    error = completion_error(**{"x" * 10_000: 1})
    assert error.code == "unknown_parameter"
    assert len(error.message) < 300


def test_items_of_lists_are_named_by_their_index() -> None:
    assert completion_error(stop=["a", ""]).param == "stop[1]"
    assert completion_error(stop_token_ids=[1, -1]).param == "stop_token_ids[1]"
    assert chat_error(messages=[USER, {"role": "user"}]).param == "messages[1].content"


def test_what_is_missing_is_named() -> None:
    for body, param in (({}, "model"), ({"model": "m"}, "prompt")):
        with pytest.raises(MotetError) as caught:
            parse(CompletionRequest, body)
        assert (caught.value.code, caught.value.param) == ("missing_required_parameter", param)


def test_null_is_absent() -> None:
    names = (*ChatRequest.model_fields, "tools", "response_format", "logprobs", "user")
    body = dict.fromkeys(names, None) | {"model": "m", "messages": [USER]}
    assert chat(**body) == chat()


@pytest.mark.parametrize("off", [-1, 0, None])
def test_every_way_to_switch_top_k_off(off: int | None) -> None:
    assert completion(top_k=off).top_k is None


def test_a_single_stop_string_is_a_list_of_one() -> None:
    assert completion(stop="END").stop == ["END"]


def test_misspelt_parameters_are_refused_with_a_suggestion() -> None:
    error = completion_error(temprature=1)
    assert (error.code, error.param) == ("unknown_parameter", "temprature")
    assert "'temperature'" in error.message
    assert "Did you mean" not in completion_error(zzz=1).message
    # A name that is missing is often one that is misspelt, and the misspelling is what helps.
    with pytest.raises(MotetError) as caught:
        parse(ChatRequest, {"model": "m", "mesages": [USER]})
    assert caught.value.param == "mesages"


@pytest.mark.parametrize(
    ("name", "neutral", "active"),
    [
        ("modalities", ["text"], ["audio"]),
        ("store", False, True),
        ("service_tier", "auto", "flex"),
        ("echo", False, True),
        ("spaces_between_special_tokens", True, False),
    ],
)
def test_unbuilt_chat_parameters_pass_only_where_they_do_nothing(
    name: str, neutral: object, active: object
) -> None:
    assert chat(**{name: neutral}) == chat()
    error = chat_error(**{name: active})
    assert (error.code, error.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize(
    ("name", "neutral", "active"),
    [
        ("suffix", "", "end"),
        ("spaces_between_special_tokens", True, False),
    ],
)
def test_unbuilt_completion_parameters_pass_only_where_they_do_nothing(
    name: str, neutral: object, active: object
) -> None:
    assert completion(**{name: neutral}) == completion()
    error = completion_error(**{name: active})
    assert (error.code, error.param) == ("unsupported_parameter", name)


def test_harmless_parameters_are_ignored() -> None:
    harmless = {"metadata": {"a": "b"}, "safety_identifier": "s", "verbosity": "low"}
    assert chat(**harmless) == chat()


def test_the_two_names_of_the_token_limit() -> None:
    assert chat(max_completion_tokens=3, max_tokens=3).max_completion_tokens == 3
    error = chat_error(max_completion_tokens=3, max_tokens=4)
    assert (error.code, error.param) == ("invalid_value", "max_completion_tokens")


def test_text_parts_become_lines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "a\nb"


@pytest.mark.parametrize(
    "content",
    [
        [],
        [{"type": "image_url", "image_url": {"url": "x"}}],
        [{"type": "text"}],
        [{"type": "text", "text": 5}],
        ["a"],
        5,
        {"type": "text", "text": "a"},
    ],
)
def test_content_that_is_no_text(content: object) -> None:
    assert chat_error(messages=[{"role": "user", "content": content}]).param == (
        "messages[0].content"
    )


def test_an_answer_can_be_sent_back_with_its_empty_fields() -> None:
    answer = {
        "role": "assistant",
        "content": "hello",
        "refusal": None,
        "tool_calls": [],
        "annotations": [],
        "audio": None,
    }
    assert chat(messages=[USER, answer]).messages[1].content == "hello"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": "x", "foo": 1}, "messages[0].foo"),
        ("x", "messages[0]"),
    ],
)
def test_wrong_messages(message: object, param: str) -> None:
    assert chat_error(messages=[message]).param == param
