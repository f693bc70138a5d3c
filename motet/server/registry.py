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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from motet.core.errors import AdapterError, MotetError
from motet.core.messages import WeightedAdapter
from motet.server.adapter import Adapter, Version, VersionState
from motet.server.adapter_dir import AdapterDirectory
from motet.server.catalogue import Catalogue
from motet.server.composition import composed_info, require_composable, spelt_parts, weighted
from motet.server.engine_client import EngineClient
from motet.server.errors import bad_request
from motet.server.holdings import Holdings
from motet.server.leases import Leases
from motet.server.names import AdapterNames, no_such_model
from motet.server.principal import Principal
from motet.server.records import Records
from motet.server.registry_store import RegistryStore
from motet.server.resolved import Resolved, Served, Use, needed_versions, resolved_to
from motet.server.single_flight import SingleFlight
from motet.server.version_files import FileFinder

_MAX_LOADS_AT_ONCE = 8  # after a restart

_log = structlog.get_logger()


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
        files = FileFinder(self.names, roots)
        self.holdings = Holdings(client, files, self.records.catalogue)
        self.leases = Leases()
        self._client = client
        self._loads: SingleFlight[None] = SingleFlight()
        client.on_restart = self.load_required

    @property
    def catalogue(self) -> Catalogue:
        return self.records.catalogue

    async def resolve(
        self,
        model: str,
        principal: Principal,
        sticky_key: str,
        weights: Mapping[str, float] | None = None,
    ) -> Resolved:
        """The versions that a request for `model` gets, from now on to its end.

        Args:
            sticky_key: requests of one key get one version of several, while the weights stay.
            weights: of the adapters, where a field beside `model` names them; `model` is the base
                model then.

        Raises:
            MotetError: 404 `model_not_found`, also for what `principal` may not use; 400 for
                adapters in both fields, or that cannot be composed.
        """
        base_name = self.names.base_name
        if model == base_name and weights is None:
            return Resolved(base_name, base_name, "model")
        if weights is None:
            param, weights = "model", spelt_parts(model, base_name)
        elif model == base_name:
            param = "lora"
        else:
            raise bad_request(
                f"'lora' names the adapters, so 'model' should be the base model, {base_name!r}.",
                "lora",
            )
        versions = [await self._find(each, principal, sticky_key, param) for each in weights]
        resolved = resolved_to(versions, list(weights.values()), param)
        return replace(resolved, lease=self.leases.take(needed_versions(versions)))

    def needs_load(self, resolved: Resolved) -> bool:
        """Whether any of it must be loaded. Raises MotetError (404): it is gone."""
        return any(not self.holdings.has(self._version(use)) for use in resolved.uses)

    async def ensure_loaded(self, resolved: Resolved) -> None:
        """Load all of it that is not loaded. All who ask wait for one load of each version.

        Raises:
            AdapterError: it cannot be loaded; `adapter_unavailable` if it could be before.
            MotetError: it is gone, or the engine is not ready.
        """
        missing = [use for use in resolved.uses if not self.holdings.has(self._version(use))]
        await asyncio.gather(*(self.load_version(use.version_id) for use in missing))

    async def load_version(self, version_id: str) -> None:
        """Load one version, unless that was done. Raises as `ensure_loaded`."""
        await self._loads.run(version_id, lambda: self._load_used(version_id))

    def admit(self, resolved: Resolved) -> Served:
        """What a request is sent to the engine with.

        Raises:
            MotetError: it is gone, its parts cannot be composed now that they have been read, or a
                restart of the engine came between the load and this.
        """
        versions = [self._version(use) for use in resolved.uses]
        for version in versions:
            if not self.holdings.has(version):
                raise MotetError(
                    f"The engine was restarted before {version.name!r} could be used. Try again.",
                    code="engine_restarting",
                )
        if not versions:
            return Served(None)
        if not resolved.is_composed:
            [version] = versions
            parts = [WeightedAdapter(part.digest, part.weight) for part in version.parts]
            return Served(version.info, parts)
        require_composable(versions, resolved.param)
        parts_read = [
            (version.info, use.weight)
            for version, use in zip(versions, resolved.uses, strict=True)
            if version.info is not None  # all are held, so all have been read
        ]
        return Served(composed_info(parts_read), weighted(parts_read))

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

    async def _find(self, model: str, principal: Principal, sticky_key: str, param: str) -> Version:
        found = await self.names.find(model, principal, param)
        if found is None:
            raise bad_request(
                f"{model!r} is the base model, which is no part of a composition: every adapter "
                "is added to it.",
                param,
            )
        return found if isinstance(found, Version) else _chosen(found, sticky_key)

    def _version(self, use: Use) -> Version:
        version = self.names.version(use.version_id)
        if version is None:
            raise no_such_model(use.version_id)
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
