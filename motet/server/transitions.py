"""One change of what a name means: all of it or nothing.

Owns: the steps of a change, and their order.
Does not know: why a name changes (`deployments.py`, `adapter_changes.py`).

What the new alias needs is loaded and pinned; the change is kept on disk; it becomes visible in
one step; what nobody needs any more is given back. Requests before that step end on the old
versions, requests after it begin on the new ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from motet.server.adapter import Adapter
from motet.server.holdings import Holdings
from motet.server.records import Records


@dataclass(frozen=True, slots=True)
class Fields:
    """What an endpoint calls the fields that errors name."""

    name: str = "name"
    source: str = "source"
    pin: str = "pin"


class Transitions:
    """Changes of adapters. Whoever makes one holds the name's lock."""

    def __init__(self, records: Records, holdings: Holdings) -> None:
        self._records = records
        self._holdings = holdings

    async def apply(self, after: Adapter, fields: Fields) -> None:
        """Make a change.

        Args:
            after: what the name is to mean; its versions are as they are now.
            fields: what errors call a version that cannot be loaded or pinned.

        Raises:
            MotetError: a version cannot be loaded or pinned, or the engine died meanwhile; then
                all is as it was.
        """
        prepared = after
        try:
            for number in after.targets:
                prepared = await self._prepare(prepared, number, fields)
            await self._records.commit(prepared)
        except BaseException:
            self._give_back(prepared, after)
            raise
        self.settle(after.name)

    async def _prepare(self, adapter: Adapter, number: int, fields: Fields) -> Adapter:
        """Have a version loaded, and pinned if the name is."""
        version = adapter.versions[number]
        is_held = self._holdings.has(version)
        loaded = version if is_held else await self._holdings.load(version, fields.source)
        if not adapter.is_pinned or self._holdings.has_pinned(loaded):
            return adapter.put(loaded)
        try:
            return adapter.put(await self._holdings.pin(loaded, fields.pin))
        except BaseException:
            if not is_held:
                self._holdings.release(loaded)
            raise

    def _give_back(self, prepared: Adapter, before: Adapter) -> None:
        """Undo `_prepare`."""
        for number, version in prepared.versions.items():
            if version.hold == before.versions[number].hold:
                continue
            if self._holdings.has(before.versions[number]):
                self._holdings.unpin(version)
            else:
                self._holdings.release(version)

    def settle(self, name: str) -> None:
        """Give back what a name needs no more: old versions, and pins."""
        adapter = self._records.catalogue.get(name)
        assert adapter is not None
        for number, version in adapter.versions.items():
            if version.hold is None:
                continue
            # What drains is held until its requests have ended, but no pin keeps it.
            if number not in adapter.kept and not version.is_draining:
                adapter = adapter.put(self._holdings.release(version))
            elif version.hold.is_pinned and not (adapter.is_pinned and number in adapter.targets):
                adapter = adapter.put(self._holdings.unpin(version))
        self._records.show(adapter)
