"""Responses from chats that were recorded: calls of tools, and text that is JSON.

OpenAI's client library talks to the translation alone, so what it makes of it is tested too.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from motet.core.errors import MotetError
from motet.server.parsing import parse
from motet.server.responses.events import ResponseEvents
from motet.server.responses.output import whole_response
from motet.server.responses.parameters import drop_idle_response_parameters
from motet.server.responses.protocol import ResponsesRequest
from tests.server.responses.schemas import check_events, check_response

Json = dict[str, Any]

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 8},
}
WEATHER: Json = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": [None]}}},
    "strict": True,
}
CALLS = [
    ("call_a", "get_weather", '{"city": "K\u00f6ln"}'),
    ("call_b", "get_weather", "{}"),
]


def requested(**body: object) -> ResponsesRequest:
    body = {"model": "m", "input": "hi", **body}
    working = ResponsesRequest.model_fields
    return parse(ResponsesRequest, drop_idle_response_parameters(body, working))


def whole_chat(text: str | None, calls: list[tuple[str, str, str]], reason: str) -> Json:
    """A chat.completion, as far as it is looked at."""
    message: Json = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id_, name, arguments in calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"choices": [choice], "usage": USAGE}


def chat_chunks(
    pieces: list[str], calls: list[tuple[str, str, list[str]]], reason: str
) -> list[Json]:
    """The chunks of the same chat; the arguments of calls come in pieces as well."""
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces]
    for index, (id_, name, arguments) in enumerate(calls):
        first = {"index": index, "id": id_, "type": "function", "function": {"name": name}}
        deltas.append({"tool_calls": [first]})
        for piece in arguments:
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    ends = [None] * len(deltas) + [reason]
    return [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": end}], "usage": None}
        for delta, end in zip([*deltas, {}], ends, strict=True)
    ] + [{"choices": [], "usage": USAGE}]


def streamed(params: ResponsesRequest, chunks: list[Json]) -> bytes:
    events = ResponseEvents(params, "1")
    return b"".join(map(events.event, chunks)) + events.end()


def client_over(answer: Callable[[ResponsesRequest], bytes]) -> OpenAI:
    """A client whose requests are answered by a function of the parameters."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        params = requested(**json.loads(request.content))
        kind = "text/event-stream" if params.stream else "application/json"
        return httpx2.Response(200, content=answer(params), headers={"Content-Type": kind})

    transport = httpx2.Client(transport=httpx2.MockTransport(handle))
    return OpenAI(base_url="http://test/v1", api_key="none", http_client=transport)


@settings(deadline=None)  # the library builds its validators when they are first used
@given(
    pieces=st.lists(st.text(min_size=1, max_size=5), max_size=4),
    calls=st.lists(
        st.tuples(
            st.uuids().map(str),
            st.text(min_size=1, max_size=5),
            st.lists(st.text(min_size=1, max_size=5), max_size=4),
        ),
        max_size=3,
    ),
    reason=st.sampled_from(["stop", "length", "tool_calls"]),
)
def test_a_stream_adds_up_to_the_whole_response(
    pieces: list[str], calls: list[tuple[str, str, list[str]]], reason: str
) -> None:
    params = requested()
    events = check_events(streamed(params, chat_chunks(pieces, calls, reason)).decode())
    whole_calls = [(id_, name, "".join(arguments)) for id_, name, arguments in calls]
    whole = whole_response(params, "1", whole_chat("".join(pieces) or None, whole_calls, reason))
    check_response(json.dumps(whole))
    last = events[-1]["response"]
    assert {**without_status(last), "created_at": 0, "completed_at": 0} == {
        **without_status(whole),
        "created_at": 0,
        "completed_at": 0,
    }
    assert_in_order(events)


def without_status(response: Json) -> Json:
    """Only a stream can tell which items were done before the answer was cut off."""
    items = [{**item, "status": None} for item in response["output"]]
    return {**response, "output": items}


def assert_in_order(events: list[Json]) -> None:
    """Items come one after another: each is added, gets its pieces, and is done as they add up."""
    places = [event["output_index"] for event in events if "output_index" in event]
    assert all(after - before in (0, 1) for before, after in pairwise(places))
    for index, item in enumerate(events[-1]["response"]["output"]):
        own = [event for event in events if event.get("output_index") == index]
        assert own[0]["type"] == "response.output_item.added"
        assert own[-1] == {**own[-1], "type": "response.output_item.done", "item": item}
        said = "".join(event["delta"] for event in own if "delta" in event)
        whole = item["arguments"] if "arguments" in item else item["content"][0]["text"]
        assert said == whole
        assert {event["item_id"] for event in own[1:-1]} <= {item["id"]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
NAMES = [
    "type",
    "role",
    "content",
    "name",
    "arguments",
    "output",
    "call_id",
    "text",
    "id",
    "schema",
]
KINDS = ["message", "function_call", "function_call_output", "reasoning", "input_text", "function"]
NEARLY_RIGHT = st.recursive(
    st.sampled_from([*KINDS, "user", "assistant"]) | JSON,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), inner | st.sampled_from(KINDS))
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    field=st.sampled_from(["input", "tools", "tool_choice", "text", "reasoning", "metadata"]),
    value=NEARLY_RIGHT | st.lists(NEARLY_RIGHT, max_size=3),
)
def test_any_value_is_a_chat_or_a_refusal(field: str, value: object) -> None:
    try:
        params = requested(**{field: value})
    except MotetError as error:
        at_fault = error.param or ""
        assert at_fault.startswith(field)
        return
    assert params.as_chat()["messages"] or field == "input"  # reasoning items alone are nothing
    check_response(json.dumps(whole_response(params, "1", whole_chat("x", [], "stop"))))


def test_tools_and_their_answers_become_a_chat() -> None:
    call = {"type": "function_call", "call_id": "call_a", "name": "get_weather", "arguments": "{}"}
    params = requested(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
            {**call, "id": "fc_1", "status": "completed"},
            {**call, "call_id": "call_b"},
            {"type": "function_call_output", "call_id": "call_a", "output": "rain"},
            {
                "type": "function_call_output",
                "call_id": "call_b",
                "output": [{"type": "input_text", "text": "sun"}],
            },
            {**call, "call_id": "call_c"},
        ],
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
        parallel_tool_calls=False,
        max_output_tokens=5,
        user="u",
        stream=True,
    )
    function = {"name": "get_weather", "arguments": "{}"}
    assert params.as_chat() == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    {"id": "call_a", "type": "function", "function": function},
                    {"id": "call_b", "type": "function", "function": function},
                ],
            },
            {"role": "tool", "tool_call_id": "call_a", "content": "rain"},
            {"role": "tool", "tool_call_id": "call_b", "content": "sun"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_c", "type": "function", "function": function}],
            },
        ],
        "tools": [
            {
                "type": "function",
                "function": {name: WEATHER[name] for name in WEATHER if name != "type"},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_completion_tokens": 5,
        "user": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("text_format", "response_format"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"default": None}, "strict": True},
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"default": None}, "strict": True},
            },
        ),
    ],
)
def test_formats_become_those_of_a_chat(text_format: Json, response_format: Json | None) -> None:
    params = requested(text={"format": text_format})
    assert params.as_chat().get("response_format") == response_format
    answered = whole_response(params, "1", whole_chat("x", [], "stop"))
    assert check_response(json.dumps(answered))["text"] == {"format": text_format}


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_client_library_gets_calls(is_stream: bool) -> None:
    def answer(params: ResponsesRequest) -> bytes:
        if not params.stream:
            chat = whole_chat("Let me see.", CALLS, "tool_calls")
            return json.dumps(whole_response(params, "1", chat)).encode()
        calls = [(id_, name, list(arguments)) for id_, name, arguments in CALLS]
        return streamed(params, chat_chunks(["Let me", " see."], calls, "tool_calls"))

    client = client_over(answer)
    if is_stream:
        with client.responses.stream(model="m", input="Weather?", tools=[WEATHER]) as events:
            response = events.get_final_response()
    else:
        response = client.responses.parse(model="m", input="Weather?", tools=[WEATHER])
    assert response.status == "completed"
    assert response.output_text == "Let me see."
    calls = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    assert [(call.call_id, call.name, call.arguments) for call in calls] == CALLS
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 8
    assert response.usage.total_tokens == 13
    # The output goes back as the library has it, with the answers of the functions.
    outputs = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        for call in calls
    ]
    client.responses.create(model="m", input=[*response.output, *outputs], tools=[WEATHER])


class City(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_client_library_parses_what_has_a_schema(is_stream: bool) -> None:
    text = '{"name": "K\u00f6ln", "people": 1100000}'

    def answer(params: ResponsesRequest) -> bytes:
        chat_format = params.as_chat()["response_format"]
        assert chat_format["json_schema"]["schema"]["required"] == ["name", "people"]
        assert chat_format["json_schema"]["strict"] is True
        if params.stream:
            return streamed(params, chat_chunks(list(text), [], "stop"))
        return json.dumps(whole_response(params, "1", whole_chat(text, [], "stop"))).encode()

    client = client_over(answer)
    if is_stream:
        with client.responses.stream(model="m", input="?", text_format=City) as events:
            parsed = events.get_final_response().output_parsed
    else:
        parsed = client.responses.parse(model="m", input="?", text_format=City).output_parsed
    assert parsed == City(name="K\u00f6ln", people=1100000)


def test_a_failure_tells_the_items_that_were_there() -> None:
    events = ResponseEvents(requested(), "1")
    chunks = chat_chunks(["ab"], [("call_a", "f", ["{"])], "tool_calls")[:4]
    text = b"".join(map(events.event, chunks))
    text += events.failure(MotetError("It broke.", code="engine_dead"))
    error, failed = check_events(text.decode())[-2:]
    assert (error["message"], error["code"], error["param"]) == ("It broke.", "engine_dead", None)
    message, call = failed["response"]["output"]
    assert (message["status"], call["status"]) == ("completed", "incomplete")
    assert call["arguments"] == "{"
    assert failed["response"]["error"]["message"] == "It broke."
