"""What answers look like: errors, models, tokens, health.

Owns: the types of these JSON objects. A key that is always there is required, null or not.
Does not know: how they are made, nor the document that describes them (`document.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from motet.server.errors import codes_by_status

Status = Literal["alive", "ready"]


def _codes_by_status() -> str:
    lines = [
        f"- {status}: {', '.join(f'`{code}`' for code in codes)}"
        for status, codes in codes_by_status().items()
    ]
    return "\n".join(["Says what is wrong. Codes by status:", *lines])


class ErrorDetails(TypedDict):
    """What went wrong, and what to do about it."""

    message: str
    type: Literal["invalid_request_error", "permission_error", "rate_limit_error", "server_error"]
    param: Annotated[str | None, Field(description="The field at fault.")]
    code: Annotated[str, Field(description=_codes_by_status())]


class Error(TypedDict):
    """OpenAI's error object: all four keys are always there."""

    error: ErrorDetails


class Expert(TypedDict):
    """An adapter that a routed set chooses, by name and content."""

    name: str
    digest: str


class Routing(TypedDict):
    """How a routed set chooses among which experts; all of its tokens use the shared ones."""

    method: str
    experts: list[Expert]
    shared: Annotated[list[str], Field(description="Digests.")]


Kind = Literal["adapter", "routed_set", "composition"]


class Model(TypedDict):
    """The base model or an adapter. What is null of an adapter is not known before it is read."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: Annotated[str | None, Field(description="Null for the base model.")]
    max_model_len: int
    version: NotRequired[int]
    kind: NotRequired[Kind | None]
    routing: NotRequired[Annotated[Routing | None, Field(description="Of a routed set.")]]
    digest: NotRequired[str | None]
    max_rank: NotRequired[int | None]
    num_pages: NotRequired[int | None]
    pinned: NotRequired[bool]
    composition: NotRequired[
        Annotated[dict[str, float] | None, Field(description="Weights, by version.")]
    ]


class ModelList(TypedDict):
    """The base model, then every adapter that may be used."""

    object: Literal["list"]
    data: list[Model]


class Tokens(TypedDict):
    """The tokens of a text or a conversation."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizedText(TypedDict):
    """The text of tokens, under vLLM's name and SGLang's."""

    prompt: str
    text: str


class AddedToken(TypedDict):
    """A token beside the vocabulary's own."""

    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


@with_config(ConfigDict(extra="allow"))
class TokenizerInfo(TypedDict):
    """Keys of tokenizer_config.json that say how to tokenize, and its switches."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    chat_template: str | None
    added_tokens_decoder: dict[str, AddedToken]
    model_max_length: int


class Health(TypedDict):
    """The server's state."""

    status: Status
