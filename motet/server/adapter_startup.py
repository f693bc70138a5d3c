"""The adapters of a server, from its start to its end.

Owns: the order in which the registry comes back, adapters are loaded, and a watch begins.
Does not know: HTTP, nor the engine's start (`run.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from motet.adapters.router_config import is_routed_set
from motet.core.errors import MotetError
from motet.server.adapter_admin import AdapterAdmin
from motet.server.adapter_dir import AdapterDirectory
from motet.server.config import ServeConfig
from motet.server.downloads import Downloads
from motet.server.engine_client import EngineClient
from motet.server.registry import AdapterRegistry
from motet.server.registry_store import RegistryStore
from motet.server.sources import Sources
from motet.server.watch import DirectoryWatcher, require_watchfiles


def adapter_directory(config: ServeConfig) -> AdapterDirectory | None:
    """The directory of `--adapter-dir`. Raises ConfigError: it is none, or cannot be watched."""
    if config.watch_adapter_dir:
        require_watchfiles()
    if config.adapter_dir is None:
        return None
    return AdapterDirectory(config.adapter_dir, config.allowed_roots)


@contextlib.contextmanager
def opened_store(config: ServeConfig) -> Iterator[RegistryStore | None]:
    """The registry's file, if anything is to be kept. Raises ConfigError."""
    if config.state_dir is None:
        yield None
        return
    with contextlib.closing(RegistryStore(config.state_dir)) as store:
        yield store


@contextlib.asynccontextmanager
async def running_adapters(
    config: ServeConfig,
    client: EngineClient,
    base_name: str,
    directory: AdapterDirectory | None,
    store: RegistryStore | None,
) -> AsyncIterator[tuple[AdapterRegistry, AdapterAdmin]]:
    """The registry with all that must be loaded before requests come, and what changes it.

    Raises:
        MotetError: an adapter that `--adapter` gives cannot be loaded.
    """
    registry = AdapterRegistry(client, base_name, config.allowed_roots, directory, store)
    downloads = None
    if config.state_dir is not None:
        downloads = Downloads(config.state_dir.absolute() / "downloads")
    sources = Sources(config.allowed_roots, config.hub_orgs, config.buckets, downloads)
    admin = AdapterAdmin.over(client, registry, sources)
    tasks: list[asyncio.Task[None]] = []
    try:
        await registry.records.restore()
        if downloads is not None:
            await asyncio.to_thread(downloads.sweep, registry.catalogue.paths())
        await _load_static_adapters(config, admin)
        await registry.names.name_directory()
        await registry.load_required()
        if config.watch_adapter_dir and directory is not None:
            watcher = DirectoryWatcher(directory, registry, admin, config.drain_timeout_s)
            tasks.append(asyncio.create_task(watcher.run(), name="watch"))
        yield registry, admin
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        admin.close()


async def _load_static_adapters(config: ServeConfig, admin: AdapterAdmin) -> None:
    """Load what `--adapter` gives, in that order, but routed sets after all that they may use.

    Raises MotetError with the first that fails.
    """
    # False sorts before True.
    for name, path in sorted(config.adapters, key=lambda given: is_routed_set(given[1])):
        try:
            await admin.deployments.load_static(name, path)
        except MotetError as error:
            raise MotetError(
                f"The adapter {name} at {path} cannot be loaded: {error.message}",
                code=error.code,
                param=error.param,
            ) from error
