"""Which versions have requests on them, and when each was last used.

Owns: a count for each version, and the wait until it is zero.
Does not know: what a version is; it is named by its id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection


class Lease:
    """One request on the versions it needs, from when it is resolved to the end of its answer."""

    def __init__(self, leases: Leases, version_ids: Collection[str]) -> None:
        self._leases = leases
        self._version_ids = version_ids

    def end(self) -> None:
        """Give it back; a second time changes nothing."""
        for version_id in self._version_ids:
            self._leases.give_back(version_id)
        self._version_ids = ()


class Leases:
    """The requests on each version."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._last_used: dict[str, int] = {}
        self._idle: dict[str, asyncio.Event] = {}  # of those that somebody waits for

    def take(self, version_ids: Collection[str]) -> Lease:
        """One more request on each of these versions."""
        for version_id in version_ids:
            self._counts[version_id] = self.count(version_id) + 1
            self._last_used[version_id] = int(time.time())
        return Lease(self, version_ids)

    def give_back(self, version_id: str) -> None:
        """One less. Use `Lease.end`."""
        count = self._counts.pop(version_id) - 1
        if count:
            self._counts[version_id] = count
        elif event := self._idle.get(version_id):
            event.set()

    def count(self, version_id: str) -> int:
        """The requests on a version."""
        return self._counts.get(version_id, 0)

    def last_used(self, version_id: str) -> int | None:
        """When its last request came, as Unix time [s]; None if none has since the start."""
        return self._last_used.get(version_id)

    def forget(self, version_id: str) -> None:
        """Forget when a version was last used: it is gone."""
        self._last_used.pop(version_id, None)

    async def drained(self, version_ids: Collection[str], timeout_s: float) -> bool:
        """Wait until none of these has a request; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                for version_id in version_ids:
                    while self.count(version_id):
                        event = self._idle.setdefault(version_id, asyncio.Event())
                        event.clear()
                        await event.wait()
        except TimeoutError:
            return False
        finally:
            for version_id in version_ids:
                self._idle.pop(version_id, None)
        return True
