"""The registry's memory and its disk, kept alike.

Owns: the order of a change (on disk, then visible, then told), and one lock for each name.
Does not know: what a change means.

Whoever changes a name holds its lock. Reading needs none: an adapter is an immutable value,
replaced in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from motet.server.adapter import Adapter, Version, VersionState, Weights
from motet.server.catalogue import Catalogue
from motet.server.events import EventLog
from motet.server.registry_store import RegistryStore

_INTERRUPTED = "The server ended before it was loaded. Load it again."
_UNDER_WAY = (VersionState.PENDING, VersionState.VALIDATING, VersionState.LOADING)


class Records:
    """All adapters of a server.

    Args:
        store: keeps what is committed; None keeps nothing beyond this process.

    Attributes:
        forgotten: names that lie in the adapter directory and must not be found there.
    """

    def __init__(self, store: RegistryStore | None) -> None:
        self.catalogue = Catalogue()
        self.events = EventLog()
        self.forgotten: set[str] = set()
        self._store = store
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def restore(self) -> None:
        """Take over what the store has kept."""
        if self._store is None:
            return
        adapters, self.forgotten = await self._store.load()
        for adapter in adapters:
            self.catalogue.put(_restored(adapter))

    def lock(self, name: str) -> asyncio.Lock:
        """The lock of a name; a name that nobody works on has none."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    @contextlib.asynccontextmanager
    async def locked(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Hold the locks of several names, for a change of one that depends on the others.

        They are taken in one order, so that no two wait for each other.
        """
        async with contextlib.AsyncExitStack() as stack:
            for name in sorted(set(names)):
                await stack.enter_async_context(self.lock(name))
            yield

    async def commit(self, adapter: Adapter, *, forget: bool = False) -> None:
        """A change that outlives the process: on disk first, then visible in one step.

        A name of which nothing is left but what drains is gone from disk, and visible until then.

        Args:
            forget: the name is gone, and must not be found in the adapter directory again.
        """
        if self._store is not None and adapter.is_gone:
            await self._store.remove(adapter.name, forget=forget)
        elif self._store is not None:
            await self._store.save(adapter)
        if forget:
            self.forgotten.add(adapter.name)
        elif adapter.alias is not None:
            self.forgotten.discard(adapter.name)
        self.show(adapter)

    def show(self, adapter: Adapter) -> None:
        """A change that ends with the process: how far a version has come, what it holds."""
        before = self.catalogue.get(adapter.name)
        if adapter.versions:
            self.catalogue.put(adapter)
        elif before is not None:
            self.catalogue.remove(adapter.name)
        self._tell(before or Adapter(adapter.name), adapter)

    def _tell(self, before: Adapter, after: Adapter) -> None:
        for number, version in after.versions.items():
            old = before.versions.get(number)
            if old is None or (old.state, old.reason) != (version.state, version.reason):
                self.events.add("version", _version_event(version, version.state.value))
        for number, version in before.versions.items():
            if number not in after.versions:
                self.events.add("version", _version_event(version, "deleted"))
        if before.alias != after.alias:
            weights = None if after.alias is None else after.alias.weights
            self.events.add("alias", {"adapter": after.name, "weights": shares_json(weights)})
        if before.is_pinned != after.is_pinned:
            self.events.add("pin", {"adapter": after.name, "pinned": after.is_pinned})


def shares_json(weights: Weights | None) -> dict[str, float] | None:
    """Weights with numbers as JSON's keys have to be."""
    return None if weights is None else {str(number): share for number, share in weights.items()}


def _version_event(version: Version, state: str) -> dict[str, Any]:
    return {
        "adapter": version.name,
        "version": version.number,
        "state": state,
        "reason": version.reason,
        "digest": version.digest,
    }


def _restored(adapter: Adapter) -> Adapter:
    """What was under way when the process ended has failed."""
    for version in adapter.versions.values():
        if version.state in _UNDER_WAY and version.number not in adapter.targets:
            failed = replace(version, state=VersionState.FAILED, reason=_INTERRUPTED)
            adapter = adapter.put(failed)
    return adapter
