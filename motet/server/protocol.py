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
    ValidationInfo,
    field_validator,
    model_validator,
    with_config,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from motet.adapters.roots import NAME_PATTERN
from motet.server.field_types import (
    CacheSalt,
    LogitBias,
    ModelName,
    NumLogprobs,
    PartWeights,
    Priority,
    TemplateKwargs,
    User,
)
from motet.server.json_schema import ABOVE_ZERO, nulls_are_absent
from motet.server.structured import ResponseFormat, StructuredOutputs
from motet.server.tools.protocol import (
    CallId,
    ToolCalls,
    ToolChoice,
    Tools,
    require_calls_for_results,
    require_offered,
)

MAX_PROMPTS = 64
MAX_CHOICES = 16
MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_MESSAGES = 4096
MAX_PATH_CHARS = 4096  # Linux opens no longer one; to resolve one takes time by its square

_EMPTY_IN_ANSWERS = ("tool_calls", "annotations")


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


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
TokenId = Annotated[int, Field(ge=0)]

_TextPrompt = Annotated[str, Field(min_length=1)]
_TokenPrompt = Annotated[list[TokenId], Field(min_length=1)]
_SeveralPrompts = Field(min_length=1, max_length=MAX_PROMPTS)
Prompt = Annotated[
    list[Any],
    BeforeValidator(
        _normalized_prompt,
        json_schema_input_type=_TextPrompt
        | Annotated[list[_TextPrompt], _SeveralPrompts]
        | _TokenPrompt
        | Annotated[list[_TokenPrompt], _SeveralPrompts],
    ),
]
StopStrings = Annotated[list[StopString], Field(max_length=MAX_STOPS)]
AboveZero = Field(json_schema_extra=ABOVE_ZERO)


@with_config(ConfigDict(extra="forbid"))
class TextPart(TypedDict):
    """A part of a message."""

    type: Literal["text"]
    text: str


Content = Annotated[
    str,
    BeforeValidator(
        _joined_text,
        json_schema_input_type=str | Annotated[list[TextPart], Field(min_length=1)],
    ),
]


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    continuous_usage_stats: bool = False  # vLLM's: the counts so far, in every chunk
    include_obfuscation: bool = False  # padding against traffic analysis; none is added


def require_stream(stream: bool) -> None:
    """Of a body with options for a stream: that there is to be one. Raises PydanticCustomError."""
    if not stream:
        raise PydanticCustomError(
            "stream_options_without_stream",
            "is only allowed together with 'stream': true",
            {"param": "stream_options"},
        )


class GenerationParameters(BaseModel):
    """What both generation endpoints take."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: ModelName
    lora: PartWeights | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(le=1), AfterValidator(_positive), AboveZero] = 1.0
    top_k: Annotated[
        Annotated[int, Field(ge=1)] | None,
        BeforeValidator(
            _switched_off_top_k, json_schema_input_type=Annotated[int, Field(ge=-1)] | None
        ),
    ] = None
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stop: Annotated[
        StopStrings,
        BeforeValidator(_normalized_stop, json_schema_input_type=StopString | StopStrings),
    ] = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS)] = []
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0)] = 0
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    repetition_penalty: Annotated[float, Field(le=2), AfterValidator(_positive), AboveZero] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: LogitBias = {}
    prompt_logprobs: NumLogprobs | None = None
    return_token_ids: bool = False
    return_routing: bool = False
    priority: Priority = 0
    cache_salt: CacheSalt | None = None
    user: User | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None:
            require_stream(self.stream)
        return self

    @model_validator(mode="after")
    def _whole_prompt_logprobs(self) -> Self:
        if self.prompt_logprobs is not None and self.stream:
            raise PydanticCustomError(
                "prompt_logprobs_in_stream",
                "is not available together with 'stream': true; send one of them",
                {"param": "prompt_logprobs"},
            )
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def num_candidates(self) -> int:
        """Sequences to generate for each prompt; `n` of them are returned."""
        return self.n

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens the engine has to report beside each new one."""
        return None

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The same for each token of the prompt."""
        return self.prompt_logprobs

    @property
    def tells_tokens(self) -> bool:
        """Whether the answer speaks of single tokens, and not of text alone."""
        return self.return_token_ids or self.return_routing


class CompletionRequest(GenerationParameters):
    """POST /v1/completions.

    Attributes:
        prompt: a list of strings, or of lists of token ids.
    """

    prompt: Prompt
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: NumLogprobs | None = None
    echo: bool = False
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _best_of_at_least_n(self) -> Self:
        if self.num_candidates < self.n:
            raise PydanticCustomError(
                "best_of_fewer",
                f"should be at least n, which is {self.n}",
                {"param": "best_of"},
            )
        if self.num_candidates > self.n and self.stream:
            raise PydanticCustomError(
                "best_of_in_stream",
                "cannot be more than n in a stream: the best are known only at the end",
                {"param": "best_of", "code": "unsupported_parameter"},
            )
        return self

    @property
    def num_candidates(self) -> int:
        return self.n if self.best_of is None else self.best_of

    @property
    def num_logprobs(self) -> int | None:
        if self.logprobs is not None:
            return max(1, self.logprobs)  # the likeliest token is always told
        return 0 if self.num_candidates > self.n else None

    @property
    def num_prompt_logprobs(self) -> int | None:
        echoed = max(1, self.logprobs) if self.echo and self.logprobs is not None else None
        wanted = [each for each in (echoed, self.prompt_logprobs) if each is not None]
        return max(wanted, default=None)

    @property
    def tells_tokens(self) -> bool:
        return super().tells_tokens or self.logprobs is not None


def _empty_fields_are_absent(schema: dict[str, Any]) -> None:
    for name in _EMPTY_IN_ANSWERS:
        known = schema["properties"].get(name, {"anyOf": [{"type": "null"}]})
        empty = {"type": "array", "maxItems": 0}
        schema["properties"][name] = {"anyOf": [*known["anyOf"], empty]}
    nulls_are_absent(schema)


class Message(BaseModel):
    """One message of a conversation.

    Attributes:
        tool_calls: what an assistant called. It may then have said nothing beside it.
        tool_call_id: of the call that a message of role "tool" has the result of.
        content: empty if an assistant only called.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        validate_default=True,
        json_schema_extra=_empty_fields_are_absent,
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: ToolCalls | None = None
    tool_call_id: CallId | None = None
    content: Content | None = None
    name: str | None = None

    @field_validator("tool_calls")
    @classmethod
    def _only_assistants_call(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("role", "assistant") != "assistant":
            raise PydanticCustomError("not_an_assistant", "is for messages of role 'assistant'")
        return value

    @field_validator("tool_call_id")
    @classmethod
    def _only_tools_have_results(cls, value: Any, info: ValidationInfo) -> Any:
        is_tool = info.data.get("role") == "tool"
        if value is None and is_tool:
            raise PydanticCustomError("missing", "is required in messages of role 'tool'")
        if value is not None and not is_tool:
            raise PydanticCustomError("not_a_tool", "is for messages of role 'tool'")
        return value

    @field_validator("content")
    @classmethod
    def _only_callers_are_silent(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get("tool_calls", ()) is None:
            raise PydanticCustomError("missing", "is required")
        return value

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, value: Any) -> Any:
        """A client that sends an answer back sends its empty fields (tool_calls, …) too."""
        if not isinstance(value, Mapping):
            return value
        return {
            key: item
            for key, item in value.items()
            if item is not None and not (key in _EMPTY_IN_ANSWERS and item == [])
        }


class ChatRequest(GenerationParameters):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: NumLogprobs = 0
    add_special_tokens: bool = False  # templates write them
    add_generation_prompt: bool | None = None  # None: unless the last message is continued
    continue_final_message: bool = False
    chat_template_kwargs: TemplateKwargs = TemplateKwargs()

    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _logprobs_are_asked_for(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(
                "top_logprobs_without_logprobs",
                "is only allowed together with 'logprobs': true",
                {"param": "top_logprobs"},
            )
        return self

    @model_validator(mode="after")
    def _continue_or_begin(self) -> Self:
        if self.continue_final_message and self.add_generation_prompt:
            raise PydanticCustomError(
                "continue_and_begin",
                "and 'add_generation_prompt' cannot both be true: either the last message goes on "
                "or a new one begins",
                {"param": "continue_final_message"},
            )
        return self

    @model_validator(mode="after")
    def _tools_fit_together(self) -> Self:
        require_offered(self.tool_choice, self.tools)
        require_calls_for_results(self.messages)
        return self

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

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None

    @property
    def tells_tokens(self) -> bool:
        return super().tells_tokens or self.logprobs


ALL_PARAMETERS = frozenset(CompletionRequest.model_fields) | frozenset(ChatRequest.model_fields)


# What it may not be is said where it is used; this is for the published schema.
AdapterName = Annotated[
    str,
    Field(min_length=1, max_length=128, json_schema_extra={"pattern": f"^{NAME_PATTERN}$"}),
]


class LoadAdapterRequest(BaseModel):
    """POST /v1/load_lora_adapter. Other fields are ignored: deployment tools add their own."""

    model_config = ConfigDict(strict=True, extra="ignore")

    lora_name: AdapterName
    lora_path: Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARS)]
    load_inplace: bool = False
    pinned: bool | None = None  # None: as it was under this name


class UnloadAdapterRequest(BaseModel):
    """POST /v1/unload_lora_adapter. Other fields are ignored, as above."""

    model_config = ConfigDict(strict=True, extra="ignore")

    lora_name: AdapterName
