"""`router_config.json`: what a routed set is made of, read and written.

Owns: the fields of the file, and what is refused in them.
Does not know: gates and experts (`adapters/routed_set.py`), nor the methods
(`adapters/routing_methods.py`). No torch: the API process reads it, to find the experts.
"""

import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from motet.adapters.files import names_in, read_together, resolve
from motet.adapters.roots import adapter_name_is_valid, confine, quote
from motet.adapters.routing_methods import METHODS, Method, fields_of, rule_of
from motet.adapters.strict_json import parse_object
from motet.core.errors import AdapterError
from motet.core.routing import RoutingRule
from motet.core.shape import ModelShape

ROUTER_CONFIG_NAME = "router_config.json"
ROUTER_WEIGHTS_NAME = "router.safetensors"
FORMAT_VERSION = 1
MAX_ROUTER_CONFIG_BYTES = 1 << 20
MAX_EXPERTS = 256

# Softmax over scores divided by a temperature of these stays finite in float32.
MIN_TEMPERATURE = 1e-6
MAX_TEMPERATURE = 1e6

_Temperature = Annotated[float, Field(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)]
_Size = Annotated[int, Field(ge=1, le=1 << 31)]


@dataclass(frozen=True, slots=True)
class BaseModelRef:
    """The base model that a router was made for; the sizes have to agree, the name is for people.

    Attributes:
        hidden_size: length of the hidden state.
        num_layers: decoder layers.
    """

    name: str
    hidden_size: int
    num_layers: int


@dataclass(frozen=True, slots=True)
class ExpertRef:
    """An adapter that a set uses.

    Attributes:
        name: what people call it; without `path`, also the name that the server knows it by.
        digest: the content that it must have.
        path: its directory, relative to the set's; None if it lies elsewhere.
    """

    name: str
    digest: str
    path: str | None = None


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """A checked `router_config.json`.

    Attributes:
        method: a key of `METHODS`.
        rule: how gates' scores become weights.
        base: the base model.
        experts: in the order of the gates.
        shared: adapters that every token uses, with weight 1, besides what is chosen.
        provenance, evaluation: how it was made and how good it is; free in form, for people.
    """

    method: str
    rule: RoutingRule
    base: BaseModelRef
    experts: tuple[ExpertRef, ...]
    shared: tuple[ExpertRef, ...] = ()
    provenance: Mapping[str, object] = field(default_factory=dict)
    evaluation: Mapping[str, object] = field(default_factory=dict)

    @property
    def members(self) -> tuple[ExpertRef, ...]:
        """The experts, and then the shared adapters."""
        return (*self.experts, *self.shared)


def is_routed_set(directory: Path) -> bool:
    """Whether a directory holds a routed set, by the name of a file in it."""
    return os.path.lexists(directory / ROUTER_CONFIG_NAME)


def read_router_config(
    directory: Path, root: Path | None = None, *, is_resolved: bool = False
) -> RouterConfig:
    """Read and check a routed set's configuration.

    Args:
        directory: the set's directory.
        root: where symbolic links may lead; None is the directory itself.
        is_resolved: as in `adapters/files.resolve`.

    Raises:
        AdapterError: the message names the field at fault.
    """
    resolved = resolve(directory, root, is_resolved=is_resolved)
    if ROUTER_CONFIG_NAME not in names_in(resolved):
        raise AdapterError(
            f"The directory has no {ROUTER_CONFIG_NAME}. Expected a routed set; see "
            "docs/routing.md for its format."
        )
    limits = {ROUTER_CONFIG_NAME: MAX_ROUTER_CONFIG_BYTES}
    (content,) = read_together(resolved, resolved if root is None else root, limits)
    return parse_router_config(content)


def parse_router_config(content: bytes) -> RouterConfig:
    """Check the bytes of `router_config.json`.

    Raises:
        AdapterError: the message names the field at fault.
    """
    raw = parse_object(content, ROUTER_CONFIG_NAME)
    method = _method_of(raw)
    special = {name: raw[name] for name in method.fields if name in raw}
    try:
        file = _File.model_validate({k: v for k, v in raw.items() if k not in special})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise _refused(f"the field {quote(where)} is not known for this method") from None
        raise _refused(f"{quote(where)} is {first['input']!r:.60}. {first['msg']}") from None
    try:
        rule = rule_of(method, file.top_k, file.temperature, special)
    except ValueError as error:
        raise _refused(str(error)) from None
    config = RouterConfig(
        method=file.method,
        rule=rule,
        base=BaseModelRef(**file.base_model.model_dump()),
        experts=tuple(ExpertRef(**each.model_dump()) for each in file.experts),
        shared=tuple(ExpertRef(**each.model_dump()) for each in file.shared),
        provenance=file.provenance,
        evaluation=file.evaluation,
    )
    check_router_config(config)
    return config


def check_router_config(config: RouterConfig) -> None:
    """Refuse what contradicts itself, whoever made it. Raises AdapterError."""
    if len(config.members) > MAX_EXPERTS:
        raise _refused(f"there are {len(config.members)} experts; at most {MAX_EXPERTS} are used")
    names = [member.name for member in config.members]
    for member in config.members:
        if not adapter_name_is_valid(member.name):
            raise _refused(f"an expert is called {quote(member.name)}, which cannot be a name")
        if names.count(member.name) > 1:
            raise _refused(f"the name {quote(member.name)} is given to more than one expert")
        _check_path(member)
    num_experts = len(config.experts)
    if config.rule.by_rank and num_experts != 1:
        raise _refused(
            f"method {config.method} chooses among the ranks of one expert, but {num_experts} are "
            "named"
        )
    if not config.rule.by_rank and config.rule.top_k > num_experts:
        raise _refused(f"top_k is {config.rule.top_k}, but there are {num_experts} experts")


def check_base(config: RouterConfig, shape: ModelShape) -> None:
    """Require the router to be for this base. Raises AdapterError, "wrong_base_model"."""
    found = config.base.hidden_size, config.base.num_layers
    expected = shape.hidden_size, shape.num_layers
    if found != expected:
        raise AdapterError(
            f"{ROUTER_CONFIG_NAME}: the router is for {quote(config.base.name)}, with hidden_size "
            f"{found[0]} and {found[1]} layers; this base model has {expected[0]} and "
            f"{expected[1]}.",
            code="wrong_base_model",
        )


def member_directory(directory: Path, member: ExpertRef) -> Path:
    """The directory of an expert that lies inside its set's, resolved.

    Args:
        directory: the set's directory, resolved.
        member: one with a `path`.

    Raises:
        AdapterError: it is missing, or a symbolic link leads out of the set's directory.
    """
    assert member.path is not None, "the expert lies elsewhere"
    try:
        return confine(directory / member.path, [directory])
    except AdapterError as error:
        raise AdapterError(
            f"The expert {quote(member.name)} should be at {quote(member.path)} in the routed "
            "set's directory, and links may not lead out of that. Check that the upload has "
            "finished.",
            code=error.code,
        ) from None


def to_json(config: RouterConfig) -> dict[str, object]:
    """The content of `router_config.json`: what `parse_router_config` makes this of."""
    return {
        "format_version": FORMAT_VERSION,
        "method": config.method,
        "base_model": {
            "name": config.base.name,
            "hidden_size": config.base.hidden_size,
            "num_layers": config.base.num_layers,
        },
        "experts": _refs_to_json(config.experts),
        **({"shared": _refs_to_json(config.shared)} if config.shared else {}),
        **fields_of(METHODS[config.method], config.rule),
        **({"provenance": dict(config.provenance)} if config.provenance else {}),
        **({"evaluation": dict(config.evaluation)} if config.evaluation else {}),
    }


def write_router_config(directory: Path, config: RouterConfig) -> None:
    """Write `router_config.json`. Raises AdapterError for what could not be read again."""
    check_router_config(config)
    text = json.dumps(to_json(config), indent=2, allow_nan=False)
    (directory / ROUTER_CONFIG_NAME).write_text(f"{text}\n", encoding="utf-8")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Base(_Part):
    name: str
    hidden_size: _Size
    num_layers: _Size


class _Ref(_Part):
    name: str
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    path: str | None = None


class _File(_Part):
    """The fields that all methods have."""

    format_version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    method: str
    base_model: _Base
    experts: Annotated[list[_Ref], Field(min_length=1, max_length=MAX_EXPERTS)]
    shared: Annotated[list[_Ref], Field(max_length=MAX_EXPERTS)] = []
    top_k: _Size
    temperature: _Temperature = 1.0
    provenance: dict[str, object] = {}
    evaluation: dict[str, object] = {}


def _method_of(raw: Mapping[str, object]) -> Method:
    name = raw.get("method")
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is None:
        raise AdapterError(
            f"{ROUTER_CONFIG_NAME}: method is {name!r:.60}; expected one of {', '.join(METHODS)}.",
            code="unsupported_adapter",
        )
    return method


def _check_path(member: ExpertRef) -> None:
    """One spelling, inside the set's directory; links are for `member_directory`."""
    path = member.path
    if path is None:
        return
    is_inside = path not in ("", ".", "..") and not path.startswith(("/", "../"))
    if not is_inside or not path.isprintable() or posixpath.normpath(path) != path:
        raise _refused(
            f"the path of {quote(member.name)} is {quote(path)}; expected one inside the set's "
            f"directory, such as 'experts/{member.name}'"
        )


def _refs_to_json(members: Sequence[ExpertRef]) -> list[dict[str, str]]:
    return [
        {
            "name": member.name,
            "digest": member.digest,
            **({} if member.path is None else {"path": member.path}),
        }
        for member in members
    ]


def _refused(reason: str) -> AdapterError:
    return AdapterError(f"{ROUTER_CONFIG_NAME}: {reason}.")
