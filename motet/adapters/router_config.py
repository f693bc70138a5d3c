"""`router_config.json`: what a routed set is made of.

Owns: the fields of the file, as far as the server reads them.
Does not know: tensors, nor where experts lie that the file only names.
"""

import json
import os
import posixpath
from dataclasses import dataclass
from pathlib import Path

from motet.adapters.roots import adapter_name_is_valid, confine, quote
from motet.adapters.routing_methods import METHODS
from motet.core.errors import AdapterError

ROUTER_CONFIG_NAME = "router_config.json"
ROUTER_WEIGHTS_NAME = "router.safetensors"
MAX_ROUTER_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ExpertRef:
    """An adapter that a set uses.

    Attributes:
        name: without `path`, the name that the server knows it by.
        digest: the content that it must have.
        path: its directory, relative to the set's; None if it lies elsewhere.
    """

    name: str
    digest: str
    path: str | None = None


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """A checked `router_config.json`."""

    method: str
    experts: tuple[ExpertRef, ...]
    shared: tuple[ExpertRef, ...] = ()

    @property
    def members(self) -> tuple[ExpertRef, ...]:
        """The experts, and then the shared adapters."""
        return (*self.experts, *self.shared)


def is_routed_set(directory: Path) -> bool:
    """Whether a directory holds a routed set, by the name of a file in it."""
    return os.path.lexists(directory / ROUTER_CONFIG_NAME)


def read_router_config(directory: Path, root: Path | None = None) -> RouterConfig:
    """Read and check a routed set's configuration.

    Args:
        root: where symbolic links may lead; None is the directory itself.

    Raises:
        AdapterError: it is missing, too large, malformed, or of an unknown method.
    """
    path = confine(directory / ROUTER_CONFIG_NAME, [root or directory])
    size = path.stat().st_size
    if size > MAX_ROUTER_CONFIG_BYTES:
        raise AdapterError(
            f"{ROUTER_CONFIG_NAME} has {size} bytes; at most {MAX_ROUTER_CONFIG_BYTES} are read."
        )
    return parse_router_config(path.read_bytes())


def parse_router_config(content: bytes) -> RouterConfig:
    """Check the bytes of `router_config.json`. Raises AdapterError."""
    try:
        raw = json.loads(content)
        method = raw["method"]
        experts, shared = (
            tuple(ExpertRef(each["name"], each["digest"], each.get("path")) for each in refs)
            for refs in (raw["experts"], raw.get("shared", ()))
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AdapterError(f"{ROUTER_CONFIG_NAME} is malformed: {quote(str(error))}.") from None
    if method not in METHODS:
        raise AdapterError(f"method is {quote(str(method))}; expected one of {', '.join(METHODS)}.")
    for ref in (*experts, *shared):
        path = ref.path
        if not adapter_name_is_valid(ref.name):
            raise AdapterError(f"{quote(ref.name)} cannot be the name of an expert.")
        is_outside = path in ("", ".", "..") or (path or "").startswith(("/", "../"))
        if path is not None and (is_outside or "\0" in path or posixpath.normpath(path) != path):
            raise AdapterError(f"The path {quote(path)} is not one inside the set's directory.")
    return RouterConfig(method, experts, shared)


def member_directory(directory: Path, member: ExpertRef) -> Path:
    """The directory of an expert that lies inside its set's, resolved. Raises AdapterError."""
    assert member.path is not None, "the expert lies elsewhere"
    return confine(directory / member.path, [directory])
