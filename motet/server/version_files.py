"""Where the files of a version lie: its own directory, and those of a routed set's experts.

Owns: which directory an expert's name and digest lead to, and that every one lies where it may.
Does not know: what is in an adapter (the engine reads it, and compares digests), nor how it is
loaded (`holdings.py`).

A set may use whatever the server has: its experts are looked up as an admin would, and whoever
may use the set needs no right on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motet.adapters.roots import confine, quote
from motet.adapters.router_config import (
    ExpertRef,
    RouterConfig,
    is_routed_set,
    member_directory,
    read_router_config,
)
from motet.core.errors import AdapterError
from motet.server.adapter import SourceType, Version
from motet.server.names import AdapterNames


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """Resolved directories that exist.

    Attributes:
        path: the version's own.
        expert_paths: of a routed set, its experts' and then its shared adapters', in the order of
            its configuration.
    """

    path: Path
    expert_paths: tuple[Path, ...] = ()


class FileFinder:
    """Finds the files of versions.

    Args:
        names: where experts are looked up that a set only names.
        roots: directories below which a version must lie, unless the operator gave it at start
            or it was downloaded.
    """

    def __init__(self, names: AdapterNames, roots: Sequence[Path]) -> None:
        self._names = names
        self._roots = tuple(roots)

    async def find(self, version: Version) -> VersionFiles:
        """Where to read a version.

        Raises:
            AdapterError: it lies nowhere, or where it may not; or a routed set's configuration
                cannot be read, or one of its experts is not there, has other content, or is a
                routed set itself.
        """
        path, config = await asyncio.to_thread(self._located, version)
        if config is None:
            return VersionFiles(path)
        experts = [await self._expert(path, ref) for ref in config.members]
        return VersionFiles(path, tuple(experts))

    def _located(self, version: Version) -> tuple[Path, RouterConfig | None]:
        path = self._confined(version)
        return path, read_router_config(path) if is_routed_set(path) else None

    def _confined(self, version: Version) -> Path:
        """The roots may be others than when it was first read."""
        assert version.path is not None  # it has been fetched
        if version.source.type in (SourceType.DIRECTORY, SourceType.PATH):
            return confine(version.path, self._roots)
        return version.path

    async def _expert(self, directory: Path, ref: ExpertRef) -> Path:
        if ref.path is None:
            version = await self._version(ref)
            path = await asyncio.to_thread(self._confined, version)
        else:
            path = await asyncio.to_thread(member_directory, directory, ref)
        if await asyncio.to_thread(is_routed_set, path):
            raise AdapterError(
                f"The expert {quote(ref.name)} is a routed set itself. Experts are plain adapters.",
                code="unsupported_adapter",
            )
        return path

    async def _version(self, ref: ExpertRef) -> Version:
        """The version of the adapter of this name that has this digest.

        What was found in the adapter directory and never read may have it: the engine reads it.
        """
        await self._names.look_up(ref.name)
        adapter = self._names.known(ref.name)
        if adapter is None or adapter.is_gone:
            raise AdapterError(
                f"The routed set needs an adapter {quote(ref.name)}, and there is none of that "
                "name. Load it first, or put it into the set's directory and give its path.",
                code="adapter_not_found",
            )
        version = adapter.with_digest(ref.digest) or adapter.unread
        if version is None or version.is_draining or version.path is None:
            raise AdapterError(
                f"The routed set needs the adapter {quote(ref.name)} with the digest {ref.digest}, "
                "and none of its versions has that. Load the one that the set was made with, or "
                "make the set anew.",
                code="digest_mismatch",
            )
        return version
