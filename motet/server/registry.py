"""The adapters of a server, as its requests see them: which version they get, loaded when used.

Owns: what happens between a model's name in a request and a digest in the engine; what is loaded
again after a restart.
Does not know: HTTP, what an adapter holds (the engine checks that), nor how an admin changes
what a name means (`deployments.py`).

A name costs nothing until it is used. A request takes its version when its model is resolved,
and keeps it to its end, whatever becomes of the name. A restarted engine knows no adapter; each
is loaded into it again when it is used, and only the same content will do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from motet.core.errors import AdapterError, MotetError
from motet.core.messages import AdapterInfo
from motet.server.adapter import Adapter, Version, VersionState
from motet.server.adapter_dir import AdapterDirectory
from motet.server.catalogue import Catalogue
from motet.server.engine_client import EngineClient
from motet.server.holdings import Holdings
from motet.server.leases import Lease, Leases
from motet.server.names import AdapterNames, no_such_model
from motet.server.principal import Principal
from motet.server.records import Records
from motet.server.registry_store import RegistryStore
from motet.server.single_flight import SingleFlight
from motet.server.version_files import FileFinder

_MAX_LOADS_AT_ONCE = 8  # after a restart

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Served:
    """What a request is admitted with: a model's one name, and its adapter, if it has one."""

    label: str
    info: AdapterInfo | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a request's model came to.

    Attributes:
        model: names exactly this from now on: the base model, or one version.
        label: the name without a version, for logs and metrics.
        version: its number; None for the base model.
        lease: keeps the version until the request has ended.
    """

    model: str
    label: str
    version: int | None = None
    lease: Lease | None = None


class AdapterRegistry:
    """Adapters by name.

    Args:
        client: the engine; after a restart it has this registry load what must be there at once.
        base_name: the name of the base model, which no adapter may have.
        roots: directories below which adapters may lie.
        directory: whose folders name adapters, if there is one.
        store: keeps what changes over restarts of the server; None keeps nothing.
    """

    def __init__(
        self,
        client: EngineClient,
        base_name: str,
        roots: Sequence[Path],
        directory: AdapterDirectory | None,
        store: RegistryStore | None,
    ) -> None:
        self.records = Records(store)
        self.names = AdapterNames(base_name, self.records, directory)
        self.holdings = Holdings(client, FileFinder(self.names, roots))
        self.leases = Leases()
        self._client = client
        self._loads: SingleFlight[None] = SingleFlight()
        client.on_restart = self.load_required

    @property
    def catalogue(self) -> Catalogue:
        return self.records.catalogue

    async def resolve(self, model: str, principal: Principal, sticky_key: str) -> Resolved:
        """The version that a request for `model` gets, from now on to its end.

        Args:
            sticky_key: requests of one key get one version of several, while the weights stay.

        Raises:
            MotetError: 404 `model_not_found`, also for what `principal` may not use.
        """
        found = await self.names.find(model, principal)
        if found is None:
            return Resolved(self.names.base_name, self.names.base_name)
        version = found if isinstance(found, Version) else _chosen(found, sticky_key)
        return Resolved(version.id, version.name, version.number, self.leases.take(version.id))

    def needs_load(self, model: str) -> bool:
        """Whether what `resolve` came to must be loaded. Raises MotetError (404): it is gone."""
        version = self._version(model)
        return version is not None and not self.holdings.has(version)

    async def ensure_loaded(self, model: str) -> None:
        """Load what `resolve` came to, unless that was done. All who ask wait for one load.

        Raises:
            AdapterError: it cannot be loaded; `adapter_unavailable` if it could be before.
            MotetError: it is gone, or the engine is not ready.
        """
        if self.needs_load(model):
            await self._loads.run(model, lambda: self._load_used(model))

    def admit(self, model: str) -> Served:
        """What a request is sent to the engine with.

        Raises:
            MotetError: it is gone, or a restart of the engine came between the load and this.
        """
        version = self._version(model)
        if version is None:
            return Served(self.names.base_name, None)
        if not self.holdings.has(version):
            raise MotetError(
                f"The engine was restarted before {version.name!r} could be used. Try again.",
                code="engine_restarting",
            )
        return Served(version.name, version.info)

    def state_of(self, version: Version) -> VersionState:
        """How far a version has come. One that the engine does not hold is EVICTED."""
        if version.state is VersionState.READY and not self.holdings.has(version):
            return VersionState.EVICTED
        return version.state

    async def load_required(self) -> None:
        """Load what must be there before requests come: pinned adapters, and those of `--adapter`.

        What cannot be loaded is logged; it does not hold the others up.

        Raises:
            MotetError: the engine died meanwhile.
        """
        limit = asyncio.Semaphore(_MAX_LOADS_AT_ONCE)

        async def load(version: Version) -> None:
            async with limit, self.records.lock(version.name):
                try:
                    await self._load_unless_held(version.name, version.number)
                except AdapterError as error:
                    _log.error("adapter not loaded again", adapter=version.id, reason=error.message)

        try:
            async with asyncio.TaskGroup() as group:
                for adapter in self.catalogue.all():
                    if adapter.is_pinned or adapter.is_static:
                        for number in adapter.targets:
                            group.create_task(load(adapter.versions[number]))
        except ExceptionGroup as errors:  # all of one cause
            raise errors.exceptions[0] from None

    def _version(self, model: str) -> Version | None:
        if model == self.names.base_name:
            return None
        version = self.names.version(model)
        if version is None:
            raise no_such_model(model)
        return version

    async def _load_used(self, version_id: str) -> None:
        spelling = self.names.parse(version_id)
        assert spelling.number is not None
        async with self.records.lock(spelling.name):
            self._client.require_ready()
            await self._load_unless_held(spelling.name, spelling.number)

    async def _load_unless_held(self, name: str, number: int) -> None:
        """Needs the name's lock."""
        adapter = self.catalogue.get(name)
        version = None if adapter is None else adapter.versions.get(number)
        if adapter is None or version is None or self.holdings.has(version):
            return
        try:
            loaded = await self.holdings.load(version, "model")
        except AdapterError as error:
            if not version.is_draining:
                failed = replace(version, state=VersionState.FAILED, reason=error.message)
                self.records.show(adapter.put(failed))
            raise
        adapter = await self._pinned_again(adapter.put(loaded), number)
        if version.digest is not None:
            self.records.show(adapter)
            return
        try:  # from now on it means this content, also after a restart
            await self.records.commit(adapter)
        except BaseException:
            self.holdings.release(adapter.versions[number])
            raise

    async def _pinned_again(self, adapter: Adapter, number: int) -> Adapter:
        version = adapter.versions[number]
        if not adapter.is_pinned or number not in adapter.targets:
            return adapter
        try:
            return adapter.put(await self.holdings.pin(version, "model"))
        except AdapterError as error:
            # It can be served without; whoever looks must not believe that it is pinned.
            _log.error("adapter no longer pinned", adapter=version.id, reason=error.message)
            return self._without_pins(replace(adapter, is_pinned=False))
        except BaseException:
            self.holdings.release(version)
            raise

    def _without_pins(self, adapter: Adapter) -> Adapter:
        for version in adapter.versions.values():
            if self.holdings.has_pinned(version):
                adapter = adapter.put(self.holdings.unpin(version))
        return adapter


def _chosen(adapter: Adapter, key: str) -> Version:
    assert adapter.alias is not None  # only such names are found
    return adapter.versions[adapter.alias.choose(adapter.name, key)]
