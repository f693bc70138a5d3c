"""What requests may say of tools, and what they hear if they say it wrong."""

from typing import Any

import pytest

from motet.core.errors import MotetError
from motet.server.parameters import drop_idle_chat_parameters, drop_idle_completion_parameters
from motet.server.parsing import parse
from motet.server.protocol import ChatRequest
from motet.server.structured import MAX_SCHEMA_DEPTH

USER = {"role": "user", "content": "x"}
CALLER = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "content": "1", "tool_call_id": "a"}


def function(name: str, **more: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def nested(num_levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(num_levels - 1):
        schema = {"not": schema}
    return schema


def chat(**body: Any) -> ChatRequest:
    whole = {"model": "m", "messages": [USER], **body}
    return parse(ChatRequest, drop_idle_chat_parameters(whole))


def refusal(**body: Any) -> MotetError:
    with pytest.raises(MotetError) as caught:
        chat(**body)
    return caught.value


@pytest.mark.parametrize(
    "tools",
    [
        [function("f")],
        [function("a-B_9", description="", parameters={}, strict=True)],
        [function("f", parameters={"type": "object"}, strict=False), function("g")],
        [function("f", parameters=nested(MAX_SCHEMA_DEPTH))],
        [function(f"f{index}") for index in range(128)],
    ],
)
@pytest.mark.parametrize("choice", [None, "none", "auto", "required"])
def test_tools(tools: list[Any], choice: str | None) -> None:
    request = chat(tools=tools, tool_choice=choice, parallel_tool_calls=False)
    assert request.tools is not None
    assert [tool.function.name for tool in request.tools] == [
        tool["function"]["name"] for tool in tools
    ]
    assert (
        chat(
            tools=tools,
            tool_choice={"type": "function", "function": {"name": tools[0]["function"]["name"]}},
        ).tools
        == request.tools
    )


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([], "tools"),
        ([function(f"f{index}") for index in range(129)], "tools"),
        ([function("f"), function("f")], "tools"),
        ("f", "tools"),
        ([{"type": "retrieval"}], "tools[0].type"),
        ([function("f b")], "tools[0].function.name"),
        ([function("f\n")], "tools[0].function.name"),
        ([function("")], "tools[0].function.name"),
        ([function("x" * 65)], "tools[0].function.name"),
        ([function("f", parametres={})], "tools[0].function.parametres"),
        ([function("f", strict="yes")], "tools[0].function.strict"),
        ([function("f", parameters=[])], "tools[0].function.parameters"),
        ([function("f", parameters={"type": "string"})], "tools[0].function.parameters"),
        ([function("f", parameters=nested(33))], "tools[0].function.parameters"),
        ([function("f", parameters=nested(1000))], "tools[0].function.parameters"),
        ([function("f", parameters={"title": "x" * 70_000})], "tools[0].function.parameters"),
    ],
)
def test_wrong_tools(tools: object, param: str) -> None:
    error = refusal(tools=tools)
    assert error.param == param
    assert len(error.message) < 500


@pytest.mark.parametrize(
    "choice",
    [
        "any",
        5,
        ["auto"],
        {},
        {"type": "function"},
        {"type": "function", "function": "f"},
        {"type": "function", "function": {"name": 5}},
        {"type": "function", "function": {"name": "g"}},
        {"type": "function", "function": {"name": "f", "x": 1}},
        {"type": "function", "function": {"name": "f"}, "x": 1},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function("f")]}},
    ],
)
def test_wrong_choices(choice: object) -> None:
    assert (refusal(tools=[function("f")], tool_choice=choice).param or "").startswith(
        "tool_choice"
    )


def test_a_choice_needs_tools() -> None:
    for choice in ("auto", "required", function("f")):
        error = refusal(tool_choice=choice)
        assert (error.code, error.param) == ("invalid_value", "tool_choice")
    assert chat(tool_choice="none").tools is None


def test_calls_and_their_results() -> None:
    request = chat(messages=[USER, CALLER, RESULT])
    assert request.messages[1].content is None
    assert request.messages[2].tool_call_id == "a"
    # Ids may come again once they have been answered.
    chat(messages=[USER, CALLER, RESULT, CALLER, RESULT])


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        ([RESULT], "messages[0].tool_call_id"),
        ([CALLER, {**RESULT, "tool_call_id": "b"}], "messages[1].tool_call_id"),
        ([RESULT, CALLER], "messages[0].tool_call_id"),
        ([CALLER, RESULT, RESULT], "messages[2].tool_call_id"),
        ([{"role": "tool", "content": "1"}], "messages[0].tool_call_id"),
        ([CALLER, {"role": "tool", "tool_call_id": "a"}], "messages[1].content"),
        ([{**USER, "tool_call_id": "a"}], "messages[0].tool_call_id"),
        ([{**CALLER, "role": "user"}], "messages[0].tool_calls"),
        ([{**CALLER, "tool_calls": CALLER["tool_calls"] * 2}], "messages[0].tool_calls"),  # type: ignore[operator]
        ([{**CALLER, "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
        ([{**CALLER, "tool_calls": []}], "messages[0].content"),
    ],
)
def test_wrong_calls_and_results(conversation: list[Any], param: str) -> None:
    assert refusal(messages=conversation).param == param


def test_the_older_names_are_refused_with_the_newer_ones() -> None:
    for older, newer in (("functions", "tools"), ("function_call", "tool_choice")):
        error = refusal(**{older: [{"name": "f"}]})
        assert (error.code, error.param) == ("unsupported_parameter", older)
        assert f"'{newer}'" in error.message


def test_completions_have_no_tools() -> None:
    with pytest.raises(MotetError) as caught:
        drop_idle_completion_parameters({"tools": [function("f")]})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")
    assert drop_idle_completion_parameters({"parallel_tool_calls": True}) == {}
