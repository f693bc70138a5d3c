"""An adapter as its users know it: a name, its numbered versions, and the alias that picks one.

Owns: these values, and every change of them as a function from one to the next.
Does not know: files, the engine, nor when a change may be made (`registry.py`, `deployments.py`).

A version never changes what it means. What a request for the bare name gets is its alias's
choice: a weighted set of versions, replaced in one step.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path

from motet.core.messages import AdapterInfo
from motet.server.engine_client import AdapterReference

Weights = Mapping[int, float]  # a share of requests by version number; ascending, sum 1

# How many changes of an alias can be rolled back.
MAX_HISTORY = 32
# Versions that a name keeps without anybody naming them; else a training loop would add for ever.
MAX_VERSIONS = 64


class SourceType(StrEnum):
    """Where the files of a version come from."""

    DIRECTORY = "directory"  # found in the adapter directory; nobody asked for it
    STATIC = "static"  # a directory anywhere, given by the operator at start
    PATH = "path"  # a directory below an allowed root
    HF = "hf"
    S3 = "s3"
    COMPOSITION = "composition"  # no files: versions of other adapters, with weights


@dataclass(frozen=True, slots=True)
class Source:
    """The provenance of a version.

    Attributes:
        uri: a directory, a Hub repository "org/name", or "s3://bucket/prefix"; of a composition
            the versions that it is made of, joined by '+'.
        revision: of a Hub repository; the full commit, once it has been fetched.
    """

    type: SourceType
    uri: str
    revision: str | None = None


class VersionState(StrEnum):
    """How far a version has come. EVICTED is never stored: it is READY without a hold."""

    PENDING = "pending"
    VALIDATING = "validating"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class Part:
    """A version in a composition that has a name. It is the same one, and so its content, for ever.

    Attributes:
        weight: the factor on its delta.
    """

    name: str
    number: int
    digest: str
    weight: float

    @property
    def version_id(self) -> str:
        """How a request names exactly this version."""
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class Hold:
    """What a version has in the engine: one reference, and perhaps one pin.

    A composition has them on each of its parts, in their order.
    """

    references: tuple[AdapterReference, ...]
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version of an adapter.

    Attributes:
        path: the directory with its files; resolved, once it has been read. None until a source
            elsewhere has been fetched, and of a composition.
        created_at: Unix time [s].
        created_by: the id of the key that asked for it, if one did.
        reason: why the state is FAILED.
        info: its content, from when it was first read: all that it will ever mean.
        hold: what it took in the engine, perhaps in one that has died since.
        parts: of a composition; none of an adapter.
    """

    name: str
    number: int
    source: Source
    path: Path | None
    created_at: int
    created_by: str | None = None
    state: VersionState = VersionState.PENDING
    reason: str | None = None
    info: AdapterInfo | None = None
    hold: Hold | None = None
    parts: tuple[Part, ...] = ()

    @property
    def id(self) -> str:
        """How a request names exactly this version."""
        return f"{self.name}@{self.number}"

    @property
    def digest(self) -> str | None:
        """Its identity; None until it has been read."""
        return None if self.info is None else self.info.digest

    @property
    def is_draining(self) -> bool:
        return self.state is VersionState.DRAINING


@dataclass(frozen=True, slots=True)
class Alias:
    """What a name means now. The etag changes with every change, and never comes again."""

    weights: Weights
    etag: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def main(self) -> int:
        """The version that most requests get; the newest of several."""
        return max(self.weights, key=lambda number: (self.weights[number], number))

    def choose(self, name: str, key: str) -> int:
        """The version for a request. The same key gets the same one while the weights stay.

        Versions share the line from 0 to 1 in ascending order, so that whoever a canary (the
        newest version) has keeps it while its share grows.
        """
        digest = hashlib.sha256(f"{name}\0{key}".encode()).digest()
        point = int.from_bytes(digest[:8]) / 2**64
        for number, weight in self.weights.items():
            point -= weight
            if point < 0:
                return number
        return max(self.weights)  # the weights' sum was rounded down


@dataclass(frozen=True, slots=True)
class Adapter:
    """A name and all that it has meant.

    Attributes:
        versions: by number, ascending.
        alias: what the bare name means; None if nothing, so that only versions can be named.
        history: weights that the alias had before, oldest first.
        next_number: of the next version; numbers of deleted versions do not come again.
        is_pinned: an admin wants what the alias names kept on the device.
        is_static: given at start by name and path, so it is loaded before requests are taken.
    """

    name: str
    versions: Mapping[int, Version] = field(default_factory=dict)
    alias: Alias | None = None
    history: tuple[Weights, ...] = ()
    next_number: int = 1
    is_pinned: bool = False
    is_static: bool = False

    @property
    def main(self) -> Version | None:
        """The version that most requests for the bare name get."""
        return None if self.alias is None else self.versions[self.alias.main]

    @property
    def targets(self) -> Collection[int]:
        """The versions that requests for the bare name may get."""
        return () if self.alias is None else self.alias.weights.keys()

    @property
    def kept(self) -> set[int]:
        """The versions that stay in the engine, so that a switch to them takes no load.

        The alias's, those that a rollback would bring back, and what is newer than any of them.
        """
        newest = max(self.targets, default=0)
        staged = (number for number in self.versions if number > newest)
        return {*self.targets, *(self.history[-1] if self.history else ()), *staged}

    def surplus(self, is_used: Callable[[Version], bool]) -> list[Version]:
        """The oldest versions beyond `MAX_VERSIONS` that can go without anybody missing them.

        The alias does not name them, no rollback would bring them back, they are not on their way
        to or from anywhere, and neither the engine nor a request holds them.

        Args:
            is_used: whether a request is on a version, or something is made of it.
        """
        named = {*self.targets, *(number for weights in self.history for number in weights)}
        idle = [
            version
            for number, version in self.versions.items()
            if number not in named and version.hold is None and version.digest is not None
        ]
        unmissed = (each for each in idle if not (each.is_draining or is_used(each)))
        return list(islice(unmissed, max(0, len(self.versions) - MAX_VERSIONS)))

    @property
    def is_gone(self) -> bool:
        """Whether nothing is left but what drains."""
        return all(version.is_draining for version in self.versions.values())

    @property
    def unread(self) -> Version | None:
        """The version of a name that has only been found in a directory."""
        for version in self.versions.values():
            if version.source.type is SourceType.DIRECTORY and version.digest is None:
                return version
        return None

    def with_digest(self, digest: str) -> Version | None:
        """The version of this content, if there is one that can be used."""
        for version in self.versions.values():
            if version.digest == digest and not version.is_draining:
                return version
        return None

    def put(self, version: Version) -> Adapter:
        """With a version, new or changed."""
        versions = dict(sorted({**self.versions, version.number: version}.items()))
        return replace(
            self, versions=versions, next_number=max(self.next_number, version.number + 1)
        )

    def drop(self, number: int) -> Adapter:
        """Without a version that the alias does not name.

        If it has never been read, nobody can have used it, and its number may come again.
        """
        dropped = self.versions[number]
        was_last = number == self.next_number - 1 and dropped.digest is None
        return replace(
            self,
            versions={each: kept for each, kept in self.versions.items() if each != number},
            history=tuple(weights for weights in self.history if number not in weights),
            next_number=number if was_last else self.next_number,
        )

    def point(self, weights: Weights) -> Adapter:
        """With the alias at these versions; their weights are shares of any whole."""
        normal = normalized(weights)
        if self.alias is not None and self.alias.weights == normal:
            return self
        history = self.history if self.alias is None else (*self.history, self.alias.weights)
        return replace(self, alias=Alias(normal), history=history[-MAX_HISTORY:])

    def roll_back(self) -> Adapter:
        """With the alias as it was before its last change, of which nothing is left then."""
        *history, previous = self.history
        return replace(self, alias=Alias(previous), history=tuple(history))

    def drain(self, numbers: Collection[int]) -> Adapter:
        """With versions that take no new requests, and that no alias names any more."""
        versions = {
            number: replace(version, state=VersionState.DRAINING) if number in numbers else version
            for number, version in self.versions.items()
        }
        history = tuple(each for each in self.history if not numbers & each.keys())
        alias = self.alias
        if alias is not None and numbers & alias.weights.keys():
            rest = {each: share for each, share in alias.weights.items() if each not in numbers}
            alias = Alias(normalized(rest)) if rest else None
        return replace(self, versions=versions, alias=alias, history=history)


class Kind(StrEnum):
    """What a model's name stands for."""

    BASE = "base"
    ADAPTER = "adapter"
    ROUTED_SET = "routed_set"
    COMPOSITION = "composition"


def kind_of(info: AdapterInfo | None, *, has_parts: bool) -> Kind:
    """The kind of what a request runs on; None is the base model."""
    if info is None:
        return Kind.BASE
    if has_parts:
        return Kind.COMPOSITION
    return Kind.ADAPTER if info.routed is None else Kind.ROUTED_SET


def found(name: str, path: Path, created_at: int) -> Adapter:
    """The adapter of a folder that has been found and not been read."""
    source = Source(SourceType.DIRECTORY, str(path))
    version = Version(name, 1, source, path, created_at)
    return Adapter(name).put(version).point({1: 1.0})


def normalized(weights: Weights) -> Weights:
    """Positive weights as shares of 1, in ascending order of versions."""
    total = sum(weights.values())
    return {number: weights[number] / total for number in sorted(weights) if weights[number] > 0}
