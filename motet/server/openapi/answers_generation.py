"""What the older generation endpoints answer, whole and streamed.

Owns: the types of these JSON objects: OpenAI's, with vLLM's fields where they were asked for.
Does not know: how they are made (`completions.py`, `chat.py`, `tools/`, `logprobs_json.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

Logprob = Annotated[float, Field(le=0)]
Byte = Annotated[int, Field(ge=0, le=255)]
Count = Annotated[int, Field(ge=0)]
FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(TypedDict):
    """Where the prompt's tokens came from."""

    cached_tokens: Count


class Usage(TypedDict):
    """What was read and written, in tokens."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails


class PromptTokenLogprob(TypedDict):
    """vLLM's: a token that could have come in one place of a prompt."""

    logprob: Logprob
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptTokenLogprob] | None]


class CompletionLogprobs(TypedDict):
    """Four lists with an entry for each token. The first token of a prompt has no probability."""

    tokens: list[str]
    token_logprobs: list[Logprob | None]
    top_logprobs: list[dict[str, Logprob] | None]
    text_offset: list[Count]


class RoutedToken(TypedDict):
    """Of a routed set: a token of the answer, and the experts that it came from."""

    token: str
    experts: Annotated[
        dict[str, float],
        Field(description="Weights above 0, averaged over the projections; by name, or by rank."),
    ]


class CompletionChoice(TypedDict):
    """One of the texts, or in a chunk what is added to it."""

    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    prompt_token_ids: NotRequired[list[int]]
    token_ids: NotRequired[list[int]]
    routing: NotRequired[list[RoutedToken]]
    prompt_logprobs: NotRequired[PromptLogprobs]


class Completion(TypedDict):
    """The answer of /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(TypedDict):
    """A part of a streamed completion; the last may have the usage and no choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]


class TopLogprob(TypedDict):
    """A token that could have come in one place."""

    token: str
    logprob: Logprob
    bytes: list[Byte] | None


class TokenLogprob(TopLogprob):
    """A token of the answer, with the likeliest in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Of every token of the answer."""

    content: list[TokenLogprob]
    refusal: None


class ChatCallFunction(TypedDict):
    """A function and its arguments, as JSON in a string."""

    name: str
    arguments: str


class ChatCall(TypedDict):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: ChatCallFunction


class AssistantMessage(TypedDict):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ChatCall]]


class ChatChoice(TypedDict):
    """One of the answers."""

    index: Count
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    token_ids: NotRequired[list[int]]
    routing: NotRequired[list[RoutedToken]]


class ChatCompletion(TypedDict):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: NotRequired[list[int]]
    prompt_logprobs: NotRequired[PromptLogprobs]


class ChatCallFunctionDelta(TypedDict):
    """The name in a call's first chunk, then its arguments piece by piece."""

    name: NotRequired[str]
    arguments: str


class ChatCallDelta(TypedDict):
    """What is added to the call of this index."""

    index: Count
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: ChatCallFunctionDelta


class ChatDelta(TypedDict):
    """What is added to a message."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    tool_calls: NotRequired[list[ChatCallDelta]]


class ChatChunkChoice(TypedDict):
    """What is added to the answer of this index."""

    index: Count
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    token_ids: NotRequired[list[int]]
    routing: NotRequired[list[RoutedToken]]


class ChatCompletionChunk(TypedDict):
    """A part of a streamed chat; the last may have the usage and no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    prompt_token_ids: NotRequired[list[int]]
