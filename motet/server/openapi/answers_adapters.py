"""What the admin API says of adapters, their versions, and what happens to them.

Owns: the types of these JSON objects, and of SGLang's answers to loads.
Does not know: how they are made (`adapter_json.py`, `records.py`, `lora.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from motet.server.openapi.answers import ErrorDetails, Kind, Routing

State = Literal["pending", "validating", "loading", "ready", "draining", "failed", "evicted"]
Shares = Annotated[
    dict[Annotated[str, Field(pattern=r"^[1-9][0-9]*$")], Annotated[float, Field(gt=0, le=1)]],
    Field(description="Shares of the requests, by version number."),
]
Time = Annotated[int, Field(ge=0, description="Unix time in seconds.")]
VersionNumber = Annotated[int, Field(ge=1)]


class AdapterSource(TypedDict):
    """Where the files are from. The first two kinds are directories that the operator named.

    A composition has none, and as its `uri` the versions that it is made of.
    """

    type: Literal["directory", "static", "path", "hf", "s3", "composition"]
    uri: str
    revision: str | None


class AdapterVersion(TypedDict):
    """A version of an adapter. What is null is not known before it is read, or is not so."""

    id: Annotated[str, Field(description="The name of this version as a model.")]
    version: VersionNumber
    state: State
    reason: Annotated[str | None, Field(description="Why it failed.")]
    kind: Kind | None
    routing: Annotated[Routing | None, Field(description="Of a routed set.")]
    digest: str | None
    source: AdapterSource
    composition: Annotated[
        dict[str, float] | None,
        Field(description="Weights, by version, of what it is made of; null of an adapter."),
    ]
    max_rank: int | None
    modules: list[str] | None
    num_parameters: int | None
    num_pages: int | None
    created_at: Time
    created_by: Annotated[str | None, Field(description="The id of a key.")]
    users: Annotated[int, Field(ge=0, description="Requests that run on it or wait for it.")]
    last_used: Time | None
    tier: Literal["device", "host", "disk"] | None


class AdapterAlias(TypedDict):
    """Which versions a name means."""

    weights: Shares
    etag: Annotated[str, Field(description="For `if_match`.")]
    history: Annotated[list[Shares], Field(description="What it meant before.")]


class Adapter(TypedDict):
    """A name with its versions."""

    name: str
    alias: AdapterAlias | None
    pinned: bool
    static: Annotated[bool, Field(description="Named on the command line.")]
    versions: list[AdapterVersion]


class ChangedAdapter(Adapter):
    """An adapter after a change, with the digest that most of its requests get."""

    digest: str | None


class AdapterList(TypedDict):
    """All adapters."""

    object: Literal["list"]
    data: list[Adapter]


class DeletedAdapter(TypedDict):
    """What was deleted, and whether its requests have ended."""

    name: str
    version: Annotated[int | None, Field(ge=1, description="Null for all of them.")]
    deleted: Literal[True]
    drained: bool


class AdapterOperation(TypedDict):
    """How a load stands."""

    id: str
    adapter: str
    version: VersionNumber
    state: Literal["running", "succeeded", "failed"]
    error: ErrorDetails | None
    created_at: Time
    ended_at: Time | None


class StartedOperation(TypedDict):
    """The load of a new version."""

    operation: AdapterOperation


class VersionEvent(TypedDict):
    """A version has come further, or is gone."""

    adapter: str
    version: VersionNumber
    state: State | Literal["deleted"]
    reason: str | None
    digest: str | None


class AliasEvent(TypedDict):
    """A name means other versions, or none."""

    adapter: str
    weights: Shares | None


class PinEvent(TypedDict):
    """An adapter is pinned, or no longer."""

    adapter: str
    pinned: bool


AdapterEvent = VersionEvent | AliasEvent | PinEvent


class SglangResult(TypedDict):
    """SGLang's answer to a load or unload."""

    success: bool
    error_message: str
    loaded_adapters: NotRequired[dict[str, str]]
