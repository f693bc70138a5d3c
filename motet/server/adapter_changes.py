"""What an admin does with versions that there are: aliases, pins, deletions.

Owns: when such a change is allowed, and the drain of what is deleted.
Does not know: HTTP, nor the steps of a change (`transitions.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from motet.core.errors import MotetError
from motet.server.adapter import Adapter, SourceType, Version, Weights
from motet.server.dependants import require_independent
from motet.server.engine_client import EngineClient
from motet.server.expert_use import sets_that_name
from motet.server.registry import AdapterRegistry
from motet.server.sources import Sources
from motet.server.transitions import Fields, Transitions

_FIELDS = Fields("name", "name", "name")


class AdapterChanges:
    """Changes of a registry, one at a time for each name."""

    def __init__(
        self,
        client: EngineClient,
        registry: AdapterRegistry,
        transitions: Transitions,
        sources: Sources,
    ) -> None:
        self._client = client
        self._names = registry.names
        self._records = registry.records
        self._holdings = registry.holdings
        self._leases = registry.leases
        self._transitions = transitions
        self._sources = sources
        self._drains: set[asyncio.Task[bool]] = set()

    async def point(self, name: str, weights: Weights, if_match: str | None) -> Adapter:
        """Have a name mean these versions, in shares of any whole.

        Args:
            if_match: the etag that the alias must have; None if it may have any.

        Raises:
            MotetError: 404 there is no such adapter or version; 409 a version was never ready;
                412 the alias has changed; or a version cannot be loaded.
        """

        def change(adapter: Adapter) -> Adapter:
            _require_etag(adapter, if_match)
            for number in weights:
                _require_servable(adapter, number)
            return adapter.point(weights)

        return await self._change(name, change)

    async def roll_back(self, name: str, if_match: str | None) -> Adapter:
        """Have a name mean what it meant before its alias last changed. Raises as `point`."""

        def change(adapter: Adapter) -> Adapter:
            _require_etag(adapter, if_match)
            if not adapter.history:
                raise MotetError(
                    f"The alias of {name!r} has not changed yet, or the versions that it had "
                    "before are deleted.",
                    code="nothing_to_roll_back",
                    param="name",
                )
            return adapter.roll_back()

        return await self._change(name, change)

    async def pin(self, name: str) -> Adapter:
        """Keep what a name means on the device; waits until it is there.

        Raises:
            AdapterError: it cannot be loaded, or pins would leave too little of the pool.
            MotetError: 404 if there is no such adapter, or the engine is not ready.
        """
        return await self._change(name, lambda adapter: replace(adapter, is_pinned=True))

    async def unpin(self, name: str) -> Adapter:
        """Let an adapter be evicted again. Raises MotetError as `pin`."""
        await self._names.look_up(name)
        async with self._records.lock(name):
            self._client.require_ready()
            adapter = self._names.adapter(name, "name")
            if adapter.is_pinned:
                await self._records.commit(replace(adapter, is_pinned=False))
                self._transitions.settle(name)
        return self._names.adapter(name, "name")

    async def warm(self, name: str) -> Adapter:
        """Bring what a name means to the device, where it stays until others need the room.

        Where pins have taken all that they may, host memory is as far as it comes.
        Raises as `pin`.
        """
        adapter = await self._change(name, lambda adapter: adapter)
        for number in adapter.targets:
            await self._holdings.warm(adapter.versions[number])
        return adapter

    async def delete(
        self, name: str, number: int | None, *, force: bool, drain_timeout_s: float, param: str
    ) -> asyncio.Task[bool]:
        """Take no new requests for an adapter, or for one version; then let it go.

        Args:
            force: also a version that the alias names; what is left of the alias takes over.
            drain_timeout_s: how long its running requests are waited for. They go on in any
                case; then nothing is known of it but in the engine.

        Returns:
            A task whose result is whether its requests have ended in time. All that is promised
            has been kept on disk when this returns.

        Raises:
            MotetError: 404, 409 for a version that the alias names or something is made of, or
                the engine is not ready.
        """
        await self._names.look_up(name)
        lies_there = await self._names.lies_in_directory(name)
        async with self._records.lock(name):
            self._client.require_ready()
            adapter = self._names.adapter(name, param)
            numbers = _numbers_to_delete(adapter, number, force=force, param=param)
            await self._require_unused(adapter, numbers, param)
            versions = [adapter.versions[each] for each in sorted(numbers)]
            require_independent(versions, self._records.catalogue, param)
            after = adapter.drain(numbers)
            if after.is_gone:
                after = replace(after, is_pinned=False, is_static=False, history=())
            await self._records.commit(after, forget=after.is_gone and lies_there)
            self._transitions.settle(name)
        drain = asyncio.create_task(self._drain(name, numbers, drain_timeout_s))
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)
        return drain

    def close(self) -> None:
        """End what drains: the server ends."""
        for drain in self._drains:
            drain.cancel()

    async def _change(self, name: str, change: Callable[[Adapter], Adapter]) -> Adapter:
        await self._names.look_up(name)
        async with self._records.lock(name):
            self._client.require_ready()
            adapter = self._names.adapter(name, "name")
            after = change(adapter)
            if not after.targets:
                raise MotetError(
                    f"The name {name!r} means no version now. Point its alias at one first.",
                    code="version_not_ready",
                    param="name",
                )
            await self._transitions.apply(after, _FIELDS)
        return self._names.adapter(name, "name")

    async def _require_unused(self, adapter: Adapter, numbers: set[int], param: str) -> None:
        """Raises MotetError (409) if a routed set is made of one of these versions."""
        others = [each for each in self._records.catalogue.all() if each.name != adapter.name]
        for number in sorted(numbers):
            sets = await asyncio.to_thread(sets_that_name, adapter, number, others)
            if sets:
                raise MotetError(
                    f"Version {number} of {adapter.name!r} is an expert of the routed set "
                    f"{', '.join(sets)}. Delete that first.",
                    code="adapter_in_use",
                    param=param,
                )

    async def _drain(self, name: str, numbers: set[int], timeout_s: float) -> bool:
        ids = [f"{name}@{number}" for number in numbers]
        is_drained = await self._leases.drained(ids, timeout_s)
        async with self._records.lock(name):
            adapter = self._records.catalogue.get(name)
            assert adapter is not None  # draining versions keep it
            gone = [adapter.versions[number] for number in numbers]
            for version in gone:
                self._holdings.release(version)
                adapter = adapter.drop(version.number)
            self._records.show(adapter)
        for version_id in ids:
            self._leases.forget(version_id)
        if is_drained:  # else the engine may have to read them again for what still runs
            await self._discard(gone)
        return is_drained

    async def _discard(self, versions: Iterable[Version]) -> None:
        """Delete what was downloaded for versions that are gone, unless others lie there too."""
        for version in versions:
            is_remote = version.source.type in (SourceType.HF, SourceType.S3)
            if is_remote and version.path not in (None, *self._records.catalogue.paths()):
                assert version.path is not None
                await self._sources.discard(version.path)


def _numbers_to_delete(
    adapter: Adapter, number: int | None, *, force: bool, param: str
) -> set[int]:
    if number is None:
        return {each for each, version in adapter.versions.items() if not version.is_draining}
    version = adapter.versions.get(number)
    if version is None or version.is_draining:
        raise _no_such_version(adapter, number, param)
    if number in adapter.targets and not force:
        raise MotetError(
            f"The alias of {adapter.name!r} names version {number}. Point it elsewhere first, or "
            "delete with force=true.",
            code="adapter_in_use",
            param=param,
        )
    return {number}


def _require_etag(adapter: Adapter, if_match: str | None) -> None:
    etag = None if adapter.alias is None else adapter.alias.etag
    if if_match is not None and if_match != etag:
        raise MotetError(
            f"The alias of {adapter.name!r} has the etag {etag}, not {if_match}: somebody has "
            "changed it. Read it again.",
            code="alias_changed",
            param="if_match",
        )


def _require_servable(adapter: Adapter, number: int) -> None:
    version = adapter.versions.get(number)
    if version is None or version.is_draining:
        raise _no_such_version(adapter, number, "weights")
    if version.digest is None and number not in adapter.targets:
        raise MotetError(
            f"Version {number} of {adapter.name!r} has never been ready: its state is "
            f"{version.state}.",
            code="version_not_ready",
            param="weights",
        )


def _no_such_version(adapter: Adapter, number: int, param: str) -> MotetError:
    there = ", ".join(str(each) for each in adapter.versions)
    return MotetError(
        f"The adapter {adapter.name!r} has no version {number}; there are {there}.",
        code="version_not_found",
        param=param,
    )
