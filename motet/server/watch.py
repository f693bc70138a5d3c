"""The adapter directory, watched: what changes in it becomes new versions, what goes drains.

Owns: which change on disk is a change of which adapter.
Does not know: how the system tells of changes (watchfiles), nor how versions are deployed.

Only what means its folder follows it: a name that an admin pointed elsewhere stays as it is, and
so does one that was deleted over HTTP. What has never been used is read when it is, as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from motet.core.errors import ConfigError, MotetError
from motet.server.adapter import Adapter, Source, SourceType
from motet.server.adapter_admin import AdapterAdmin
from motet.server.adapter_dir import CONFIG_FILES, AdapterDirectory
from motet.server.deployments import Deployment
from motet.server.registry import AdapterRegistry

# Changes that come closer together than this are one: files are written piece by piece.
SETTLE_MS = 1600

# A routed set has to go before its experts, and can only come after them.
_OF_OTHERS = ("adapter_in_use", "adapter_not_found", "digest_mismatch")

_log = structlog.get_logger()


class DirectoryWatcher:
    """Follows one directory of adapters.

    Args:
        drain_timeout_s: how long requests on an adapter whose folder has gone are waited for.
    """

    def __init__(
        self,
        directory: AdapterDirectory,
        registry: AdapterRegistry,
        admin: AdapterAdmin,
        drain_timeout_s: float,
    ) -> None:
        self._directory = directory
        self._registry = registry
        self._admin = admin
        self._drain_timeout_s = drain_timeout_s

    async def run(self) -> None:
        """Follow it until cancelled. What cannot be followed is logged."""
        try:
            await self._run()
        except Exception:
            _log.exception(
                "the adapter directory is no longer watched", path=str(self._directory.path)
            )

    async def _run(self) -> None:
        from watchfiles import awatch

        await self._follow(await asyncio.to_thread(self._names_without_folder))
        async for changes in awatch(
            self._directory.path, debounce=SETTLE_MS, step=SETTLE_MS // 4, recursive=True
        ):
            paths = [Path(path) for _, path in changes]
            await self._follow(await asyncio.to_thread(self._names_at, paths))

    async def _follow(self, names: Iterable[str]) -> None:
        """Follow changes that came together; what another of them is in the way of, after it."""
        waiting: list[str] = []
        for name in names:
            try:
                await self._follow_one(name)
            except MotetError as error:
                if error.code in _OF_OTHERS:
                    waiting.append(name)
                else:
                    _tell(name, error)
        for name in waiting:
            try:
                await self._follow_one(name)
            except MotetError as error:
                _tell(name, error)

    async def _follow_one(self, name: str) -> None:
        adapter = self._registry.catalogue.get(name)
        if not await self._directory.holds(name):
            if adapter is not None and not adapter.is_gone and _means_its_folder(adapter):
                await self._admin.changes.delete(
                    name, None, force=True, drain_timeout_s=self._drain_timeout_s, param="name"
                )
        elif adapter is None:
            self._directory.forget_miss(name)
            await self._registry.names.look_up(name)
        elif self._is_followed(adapter):
            source = Source(SourceType.DIRECTORY, str(self._directory.path / name))
            operation = await self._admin.deployments.start(Deployment(name, source))
            await operation.wait()

    def _is_followed(self, adapter: Adapter) -> bool:
        """Whether what lies in its folder now is to become a version."""
        if adapter.is_gone:  # what drains was in a folder that went, and this one has come since
            return adapter.name not in self._registry.records.forgotten
        main = adapter.main
        return _means_its_folder(adapter) and main is not None and main.digest is not None

    def _names_without_folder(self) -> list[str]:
        """Names whose folders may have gone since the registry was written."""
        return [
            adapter.name
            for adapter in self._registry.catalogue.all()
            if _means_its_folder(adapter) and not (self._directory.path / adapter.name).is_dir()
        ]

    def _names_at(self, paths: Iterable[Path]) -> list[str]:
        """Adapters that changed paths may belong to: those of all folders above and below them.

        What is written into a new folder before the system watches it is told of by nobody: the
        folder itself is all that is known.
        """
        names: dict[str, None] = {}
        for path in paths:
            below = (  # none, if it is a file
                file.parent for name in CONFIG_FILES for file in path.rglob(name)
            )
            for folder in (path, *path.parents, *below):
                if folder == self._directory.path or not folder.is_relative_to(
                    self._directory.path
                ):
                    continue
                name = folder.relative_to(self._directory.path).as_posix()
                is_known = self._registry.catalogue.get(name) is not None
                if is_known or self._directory.has_config(name):
                    names[name] = None
        return list(names)


def _tell(name: str, error: MotetError) -> None:
    _log.warning("change not followed", adapter=name, reason=error.message)


def require_watchfiles() -> None:
    """Raises ConfigError if the library that tells of changes is not installed."""
    try:
        import watchfiles  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--watch-adapter-dir needs an extra that is not installed: pip install 'motet[watch]'.",
            param="watch_adapter_dir",
        ) from error


def _means_its_folder(adapter: Adapter) -> bool:
    main = adapter.main
    return main is not None and main.source.type is SourceType.DIRECTORY
