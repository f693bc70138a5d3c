"""The adapters of a server: loaded when they are first used, replaced, pinned, forgotten.

Owns: that one thing at a time happens to a name, and the order of the steps in it.
Does not know: HTTP, nor what an adapter holds (the engine checks that).

A name costs nothing until it is used. A request takes its digest when it is admitted. A reload
swaps the name in one step: requests before it end on the old weights, requests after it begin on
the new ones. A restarted engine knows no adapter; each is loaded into it again when it is used,
and only the same content will do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from motet.adapters.roots import confine
from motet.core.errors import AdapterError, MotetError
from motet.core.messages import AdapterInfo
from motet.server.adapter_dir import AdapterDirectory
from motet.server.catalogue import Adapter, Catalogue
from motet.server.engine_client import EngineClient
from motet.server.errors import bad_request
from motet.server.names import AdapterNames
from motet.server.single_flight import SingleFlight
from motet.server.versions import Versions

_MAX_LOADS_AT_ONCE = 8  # after a restart

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Served:
    """What a request is admitted with: a model's one name, and its adapter, if it has one."""

    label: str
    info: AdapterInfo | None


class AdapterRegistry:
    """Adapters by name.

    Args:
        client: the engine; after a restart it has this registry load what must be there at once.
        base_name: the name of the base model, which no adapter may have.
        roots: directories below which `load` may read.
        directory: whose folders name adapters, if there is one.
    """

    def __init__(
        self,
        client: EngineClient,
        base_name: str,
        roots: Sequence[Path],
        directory: AdapterDirectory | None,
    ) -> None:
        self.catalogue = Catalogue()
        self.names = AdapterNames(base_name, self.catalogue, directory)
        self._client = client
        self._roots = tuple(roots)
        self._versions = Versions(client, roots)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loads: SingleFlight[None] = SingleFlight()
        client.on_restart = self._load_after_restart

    def needs_load(self, model: str) -> bool:
        """Whether what `model` names must be loaded before it is served. Raises MotetError (404)"""
        adapter = self.names.resolve(model)
        return adapter is not None and not self._versions.is_loaded(adapter)

    async def ensure_loaded(self, model: str) -> None:
        """Load what `model` names, unless that has been done. All who ask wait for one load.

        Raises:
            AdapterError: it cannot be loaded; `adapter_unavailable` if it could be before.
            MotetError: there is no such model, or the engine is not ready.
        """
        adapter = self.names.resolve(model)
        if adapter is not None and not self._versions.is_loaded(adapter):
            await self._loads.run(adapter.name, lambda: self._load_named(adapter.name))

    def admit(self, model: str) -> Served:
        """What a request for `model` gets from now on to its end.

        Raises:
            MotetError: there is no such model, or a restart of the engine came between the load
                and this.
        """
        adapter = self.names.resolve(model)
        if adapter is None:
            return Served(self.names.base_name, None)
        if not self._versions.is_loaded(adapter):
            raise MotetError(
                f"The engine was restarted before {adapter.name!r} could be used. Try again.",
                code="engine_restarting",
            )
        return Served(adapter.name, adapter.info)

    async def load(
        self, name: str, path: str, *, load_inplace: bool = False, pinned: bool | None = None
    ) -> Adapter:
        """Load an adapter from below the allowed roots, or replace it in place.

        Args:
            pinned: keep it on the device; None is as it was under this name.

        Raises:
            AdapterError: the path is not allowed, or the engine refuses the adapter or the pin;
                an older version under this name goes on serving.
            MotetError: the name is not allowed or taken, or the engine is not ready.
        """
        self.names.require_usable(name)
        async with self._lock(name):
            self._client.require_ready()
            previous = self.catalogue.get(name)
            resolved = self._free_path(previous, path, load_inplace=load_inplace)
            if pinned is None:
                pinned = previous is not None and previous.is_pinned
            reference = await self._versions.take(resolved, is_pinned=pinned)
            is_static = previous is not None and previous.is_static
            adapter = Adapter(name, resolved, int(time.time()), reference, pinned, is_static)
            self.names.give(adapter)
            if previous is not None:
                self._versions.give_back(previous)
        return adapter

    async def load_static(self, name: str, path: Path) -> None:
        """Load an adapter that the operator gave at start, from anywhere. Raises as `load`."""
        self.names.require_usable(name)
        if name in self.catalogue:
            raise _name_taken(name)
        resolved = confine(path.absolute(), (path.absolute(),))
        reference = await self._versions.take(resolved, is_pinned=False)
        now = int(time.time())
        self.names.give(Adapter(name, resolved, now, reference, is_static=True))

    async def unload(self, name: str) -> None:
        """Forget a name. Its running requests go on; the engine waits for them.

        Raises:
            MotetError: 404 if there is no such adapter, or the engine is not ready.
        """
        await self.names.look_up(name, "lora_name")
        async with self._lock(name):
            self._client.require_ready()
            self._versions.give_back(await self.names.forget(name, "lora_name"))

    async def pin(self, name: str) -> Adapter:
        """Keep an adapter on the device, loading it first if need be; waits until it is there.

        Raises:
            AdapterError: it cannot be loaded, or pins would leave too little of the pool.
            MotetError: 404 if there is no such adapter, or the engine is not ready.
        """
        await self.names.look_up(name, "name")
        async with self._lock(name):
            self._client.require_ready()
            adapter = self.names.adapter(name, "name")
            if not self._versions.is_loaded(adapter):
                adapter = await self._versions.take_again(adapter, "name")
                self.catalogue.put(adapter)
            if not adapter.is_pinned:
                adapter = await self._versions.pin(adapter)
                self.catalogue.put(adapter)
        return adapter

    async def unpin(self, name: str) -> Adapter:
        """Let an adapter be evicted again. Raises MotetError as `unload`."""
        await self.names.look_up(name, "name")
        async with self._lock(name):
            self._client.require_ready()
            adapter = self.names.adapter(name, "name")
            if adapter.is_pinned:
                adapter = self._versions.unpin(adapter)
                self.catalogue.put(adapter)
        return adapter

    def _free_path(self, previous: Adapter | None, path: str, *, load_inplace: bool) -> Path:
        """Where to load from. A name may be loaded once more only in place.

        One that has never been loaded is not taken, if this is where it lies.
        """
        if load_inplace or previous is None:
            return confine(path, self._roots)
        if previous.reference is not None:
            raise _name_taken(previous.name)
        resolved = confine(path, self._roots)
        if resolved != previous.path.resolve():
            raise _name_taken(previous.name)
        return resolved

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    async def _load_named(self, name: str) -> None:
        async with self._lock(name):
            self._client.require_ready()
            await self._load_unless_held(name)

    async def _load_unless_held(self, name: str) -> None:
        adapter = self.catalogue.get(name)
        if adapter is not None and not self._versions.is_loaded(adapter):
            self.catalogue.put(await self._versions.take_again(adapter, "model"))

    async def _load_after_restart(self) -> None:
        """Load what must be there at once. Raises MotetError if the new engine dies too."""
        limit = asyncio.Semaphore(_MAX_LOADS_AT_ONCE)

        async def load(name: str) -> None:
            async with limit, self._lock(name):
                try:
                    await self._load_unless_held(name)
                except AdapterError as error:
                    _log.error("adapter not loaded again", adapter=name, reason=error.message)

        async with asyncio.TaskGroup() as group:
            for adapter in self.catalogue.all():
                if adapter.is_pinned or adapter.is_static:
                    group.create_task(load(adapter.name))


def _name_taken(name: str) -> MotetError:
    return bad_request(
        f"The LoRA adapter {name!r} has already been loaded. If you want to load the adapter in "
        "place, set 'load_inplace' to true.",
        "lora_name",
        code="adapter_already_loaded",
    )
