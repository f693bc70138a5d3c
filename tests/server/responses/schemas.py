"""Whether a response and its events are what OpenAI's schema says, for tests.

Beside the types of OpenAI's client library, whose optional fields are often required by the
schema, this knows which keys have to be there.
"""

import json
from typing import Any

from openai.types import responses

_RESPONSE_KEYS = frozenset(
    [
        "id",
        "object",
        "created_at",
        "status",
        "error",
        "incomplete_details",
        "instructions",
        "max_output_tokens",
        "metadata",
        "model",
        "output",
        "parallel_tool_calls",
        "previous_response_id",
        "reasoning",
        "store",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_p",
        "truncation",
        "usage",
        "user",
    ]
)
_ITEM_KEYS = {
    "message": frozenset(["id", "type", "role", "status", "content"]),
    "function_call": frozenset(["id", "type", "call_id", "name", "arguments", "status"]),
}
_TEXT_KEYS = frozenset(["type", "text", "annotations", "logprobs"])
_EVENT_TYPES = {
    "response.created": responses.ResponseCreatedEvent,
    "response.in_progress": responses.ResponseInProgressEvent,
    "response.output_item.added": responses.ResponseOutputItemAddedEvent,
    "response.output_item.done": responses.ResponseOutputItemDoneEvent,
    "response.content_part.added": responses.ResponseContentPartAddedEvent,
    "response.content_part.done": responses.ResponseContentPartDoneEvent,
    "response.output_text.delta": responses.ResponseTextDeltaEvent,
    "response.output_text.done": responses.ResponseTextDoneEvent,
    "response.function_call_arguments.delta": responses.ResponseFunctionCallArgumentsDeltaEvent,
    "response.function_call_arguments.done": responses.ResponseFunctionCallArgumentsDoneEvent,
    "response.completed": responses.ResponseCompletedEvent,
    "response.incomplete": responses.ResponseIncompleteEvent,
    "response.failed": responses.ResponseFailedEvent,
    "error": responses.ResponseErrorEvent,
}


def check_response(text: str | bytes) -> dict[str, Any]:
    """The JSON of a response, which is valid."""
    responses.Response.model_validate_json(text, strict=True)
    response: dict[str, Any] = json.loads(text)
    assert response.keys() >= _RESPONSE_KEYS
    for item in response["output"]:
        _check_item(item)
    return response


def check_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, which are valid and numbered; comments are left out."""
    events = [_check_event(each) for each in text.split("\n\n") if each and each[0] != ":"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def _check_event(frame: str) -> dict[str, Any]:
    name, data = frame.split("\n")
    text = data.removeprefix("data: ")
    event: dict[str, Any] = json.loads(text)
    assert name == f"event: {event['type']}"
    kind = _EVENT_TYPES[event["type"]]
    kind.model_validate_json(text, strict=True)
    if "response" in event:
        check_response(json.dumps(event["response"]))
    if "item" in event:
        _check_item(event["item"])
    if "part" in event:
        assert event["part"].keys() == _TEXT_KEYS
    if kind is responses.ResponseErrorEvent:
        assert event.keys() == {"type", "code", "message", "param", "sequence_number"}
    return event


def _check_item(item: dict[str, Any]) -> None:
    assert item.keys() == _ITEM_KEYS[item["type"]]
    for part in item.get("content", []):
        assert part.keys() == _TEXT_KEYS
