"""What /v1/responses answers, whole and as events.

Owns: the types of these JSON objects.
Does not know: how they are made (`responses/output.py`, `responses/events.py`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from motet.server.openapi.answers_generation import Count

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputTextPart(TypedDict):
    """Text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(TypedDict):
    """What the model said."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputTextPart]


class OutputCall(TypedDict):
    """A call that the model asks for; its arguments are JSON in a string."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


OutputItem = OutputMessage | OutputCall


class InputTokensDetails(TypedDict):
    """Where the input's tokens came from."""

    cached_tokens: Count
    cache_write_tokens: Count


class OutputTokensDetails(TypedDict):
    """What the output's tokens were for."""

    reasoning_tokens: Count


class ResponseUsage(TypedDict):
    """What was read and written, in tokens."""

    input_tokens: Count
    input_tokens_details: InputTokensDetails
    output_tokens: Count
    output_tokens_details: OutputTokensDetails
    total_tokens: Count


class ResponseFailure(TypedDict):
    """Why a response failed."""

    code: Literal["server_error"]
    message: str


class IncompleteDetails(TypedDict):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens", "content_filter"]


class ResponseReasoning(TypedDict):
    """There is none."""

    effort: Literal["none"] | None
    summary: None


class ResponseTextFormat(TypedDict):
    type: Literal["text", "json_object", "json_schema"]
    name: NotRequired[str]
    description: NotRequired[str]
    schema: NotRequired[dict[str, Any]]
    strict: NotRequired[bool]


class ResponseText(TypedDict):
    """What the text has to be."""

    format: ResponseTextFormat


class ResponseTool(TypedDict):
    """A function that the client offered."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class ResponseNamedTool(TypedDict):
    """The one function that had to be called."""

    type: Literal["function"]
    name: str


class Response(TypedDict):
    """The response object. It repeats what was asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    completed_at: int | None
    background: Literal[False]
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: ResponseReasoning
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: ResponseText
    tool_choice: Literal["none", "auto", "required"] | ResponseNamedTool
    tools: list[ResponseTool]
    top_logprobs: Literal[0]
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class _Event(TypedDict):
    sequence_number: Count


class _ItemEvent(_Event):
    item_id: str
    output_index: Count


class ResponseStateEvent(_Event):
    """The response as it begins, and as it ends."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: Response


class OutputItemEvent(_Event):
    """An item begins or is done."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: Count
    item: OutputItem


class ContentPartEvent(_ItemEvent):
    """A part of a message begins or is done."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: Count
    part: OutputTextPart


class TextDeltaEvent(_ItemEvent):
    """Text is added to a part."""

    type: Literal["response.output_text.delta"]
    content_index: Count
    delta: str
    logprobs: list[Any]


class TextDoneEvent(_ItemEvent):
    """The whole text of a part."""

    type: Literal["response.output_text.done"]
    content_index: Count
    text: str
    logprobs: list[Any]


class ArgumentsDeltaEvent(_ItemEvent):
    """Text is added to a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDoneEvent(_ItemEvent):
    """The whole arguments of a call."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ErrorEvent(_Event):
    """An error has ended the stream; a failed response follows."""

    type: Literal["error"]
    code: str
    message: str
    param: str | None


ResponseEvent = Annotated[
    ResponseStateEvent
    | OutputItemEvent
    | ContentPartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
    | ErrorEvent,
    Field(discriminator="type"),
]
