"""The directory whose folders name adapters, without any of them being read.

Owns: which folders of it are adapters, at start and for names that come up later.
Does not know: what is in an adapter, nor which names are in use (`registry.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from motet.adapters.roots import adapter_name_is_valid, confine
from motet.adapters.router_config import ROUTER_CONFIG_NAME, is_routed_set
from motet.core.errors import AdapterError, ConfigError
from motet.server.single_flight import SingleFlight

# How long a name is known to be missing: short, for an adapter may be written there at any time.
MISS_LIFETIME_S = 5.0
# More made-up names than this at once are looked up again, rather than remembered.
MAX_REMEMBERED_MISSES = 1024

# What makes a folder an adapter's, or a routed set's.
CONFIG_FILES = ("adapter_config.json", ROUTER_CONFIG_NAME)

_log = structlog.get_logger()


class AdapterDirectory:
    """A directory of adapters and routed sets, one in each folder that has a file of its kind.

    Attributes:
        path: where it is, resolved.

    Args:
        directory: the directory.
        roots: where symbolic links in it may lead; `directory` is one of them.

    Raises:
        ConfigError: it is not a directory.
    """

    def __init__(self, directory: Path, roots: Sequence[Path]) -> None:
        if not directory.is_dir():
            raise ConfigError(f"--adapter-dir {directory} is not a directory.", param="adapter_dir")
        self.path = directory.resolve()
        self._roots = tuple(roots)
        self._lookups: SingleFlight[Path | None] = SingleFlight()
        self._misses: dict[str, float] = {}  # until when [s, monotonic], oldest first

    def scan(self) -> list[tuple[str, Path]]:
        """The names and paths of the adapters that lie directly in it, in order.

        Reads no adapter: it takes one look at each folder. What cannot be named is logged.
        """
        with os.scandir(self.path) as entries:
            names = sorted(entry.name for entry in entries)
        found: list[tuple[str, Path]] = []
        for name in names:
            path = self.path / name
            if not any(os.path.exists(path / file) for file in CONFIG_FILES):
                continue
            if reason := self._obstacle(name, path):
                _log.warning("adapter not named", path=str(path), reason=reason)
            else:
                found.append((name, path))
        return found

    async def find(self, name: str) -> Path | None:
        """Where an adapter of this name lies, also in folders of folders; None if nowhere.

        The files are looked at once for all that ask at the same time, and a miss is remembered
        for `MISS_LIFETIME_S`.
        """
        # A name has one spelling: "a//b" and "a/./b" are other names, and no adapter's.
        if not adapter_name_is_valid(name) or posixpath.normpath(name) != name:
            return None
        if self._misses.get(name, 0.0) > time.monotonic():
            return None
        return await self._lookups.run(name, lambda: self._look_up(name))

    async def holds(self, name: str) -> bool:
        """Whether an adapter of this name lies in it now."""
        return await asyncio.to_thread(self._path_of, name) is not None

    def has_config(self, name: str) -> bool:
        """Whether a folder of this name looks like an adapter's, and is none of a set's experts."""
        path = self.path / name
        if not any((path / file).is_file() for file in CONFIG_FILES):
            return False
        above = path.relative_to(self.path).parents
        return not any(is_routed_set(self.path / folder) for folder in above)

    def forget_miss(self, name: str) -> None:
        """Have a name looked for that was missing a moment ago."""
        self._misses.pop(name, None)

    async def _look_up(self, name: str) -> Path | None:
        path = await asyncio.to_thread(self._path_of, name)
        self._misses.pop(name, None)
        if path is None:
            if len(self._misses) >= MAX_REMEMBERED_MISSES:
                del self._misses[next(iter(self._misses))]
            self._misses[name] = time.monotonic() + MISS_LIFETIME_S
        return path

    def _path_of(self, name: str) -> Path | None:
        path = self.path / name
        for file in CONFIG_FILES:
            with contextlib.suppress(AdapterError):
                confine(path / file, self._roots)
                confine(path, self._roots)
                return path
        return None

    def _obstacle(self, name: str, path: Path) -> str | None:
        if not adapter_name_is_valid(name):
            return (
                "its folder's name cannot name an adapter: use 1 to 128 letters, digits, '.', '_' "
                "or '-', beginning with a letter or digit, without '..'"
            )
        if path.is_symlink() and self._path_of(name) is None:
            return "it leads out of the allowed roots; add its target with --adapter-root"
        return None
