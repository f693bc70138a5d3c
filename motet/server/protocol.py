"""The request bodies: fields, types and bounds.

Owns: the strict pydantic models of the generation and admin endpoints.
Does not know: parameters that are ignored or refused (`parameters.py`), how an error is said
(`parsing.py`), and the model's limits (`admission.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_PROMPTS = 64
MAX_CHOICES = 16
MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_MESSAGES = 4096
MAX_USER_CHARS = 512


def _normalized_prompt(value: Any) -> list[Any]:
    """A string, strings, token ids, or lists of token ids, as a list of prompts."""
    prompts = _as_list_of_prompts(value)
    if len(prompts) > MAX_PROMPTS:
        raise PydanticCustomError(
            "too_many_prompts", f"should hold at most {MAX_PROMPTS} prompts, not {len(prompts)}"
        )
    if not prompts or not all(prompts):
        raise PydanticCustomError("empty_prompt", "should not be empty, nor any prompt in it")
    return prompts


def _as_list_of_prompts(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return value
        if _are_token_ids(value):
            return [value]
        if all(isinstance(item, list) and _are_token_ids(item) for item in value):
            return value
    raise PydanticCustomError(
        "prompt_type",
        "should be a string, a list of strings, a list of token ids, or a list of such lists",
    )


def _are_token_ids(value: list[Any]) -> bool:
    # `type(...) is int`, for a bool is an int to isinstance.
    return all(type(item) is int and item >= 0 for item in value)


def _normalized_stop(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _switched_off_top_k(value: Any) -> Any:
    """-1 and 0 both mean "off" to other servers' clients."""
    return None if type(value) is int and value in (-1, 0) else value


def _positive(value: float) -> float:
    if value <= 0.0:
        raise PydanticCustomError("not_positive", "should be greater than 0")
    return value


def _joined_text(value: Any) -> Any:
    """The text of a message: a string, or text parts joined by a newline, as vLLM does."""
    if not isinstance(value, list):
        return value
    if not value:
        raise PydanticCustomError("empty_content", "should hold at least one part")
    for part in value:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise PydanticCustomError("part_type", "should be a string or a list of parts")
        if part["type"] != "text":
            raise PydanticCustomError("part_kind", "may hold text parts only: this is a text model")
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError("part_type", "has a text part without a string 'text' alone")
    return "\n".join(part["text"] for part in value)


Prompt = Annotated[list[Any], BeforeValidator(_normalized_prompt)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
TokenId = Annotated[int, Field(ge=0)]


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False  # padding against traffic analysis; none is added


class GenerationParameters(BaseModel):
    """What both generation endpoints take."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(le=1), AfterValidator(_positive)] = 1.0
    top_k: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_switched_off_top_k)] = (
        None
    )
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stop: Annotated[
        Annotated[list[StopString], Field(max_length=MAX_STOPS)], BeforeValidator(_normalized_stop)
    ] = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS)] = []
    ignore_eos: bool = False
    repetition_penalty: Annotated[float, Field(le=2), AfterValidator(_positive)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=MAX_USER_CHARS)] | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "stream_options_without_stream",
                "is only allowed together with 'stream': true",
                {"param": "stream_options"},
            )
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(GenerationParameters):
    """POST /v1/completions. `prompt` is a list of strings, or of lists of token ids."""

    prompt: Prompt


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined_text)]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, value: Any) -> Any:
        """A client that sends an answer back sends its empty fields (tool_calls, …) too."""
        if not isinstance(value, Mapping):
            return value
        return {
            key: item
            for key, item in value.items()
            if item is not None and not (key in ("tool_calls", "annotations") and item == [])
        }


class ChatRequest(GenerationParameters):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise PydanticCustomError(
                "two_limits",
                "and 'max_tokens' (its old name) differ; give one of them",
                {"param": "max_completion_tokens"},
            )
        return self


class LoadAdapterRequest(BaseModel):
    """POST /v1/load_lora_adapter. Other fields are ignored: deployment tools add their own."""

    model_config = ConfigDict(strict=True, extra="ignore")

    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: Annotated[str, Field(min_length=1)]
    load_inplace: bool = False
    pinned: bool | None = None  # None: as it was under this name


class UnloadAdapterRequest(BaseModel):
    """POST /v1/unload_lora_adapter. Other fields are ignored, as above."""

    model_config = ConfigDict(strict=True, extra="ignore")

    lora_name: Annotated[str, Field(min_length=1)]
