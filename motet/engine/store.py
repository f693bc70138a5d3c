"""The adapters in host memory, by digest, and how many names refer to each.

Owns: the packed host copies and their reference counts.
Does not know: names (`server/registry.py`), nor what is on the device (`memory/residency.py`).
"""

from dataclasses import dataclass

from motet.core.messages import AdapterInfo
from motet.memory.device_pool import PackedAdapter


@dataclass
class _Entry:
    packed: PackedAdapter
    info: AdapterInfo
    num_references: int = 0


class AdapterStore:
    """Host copies of adapters. One without references drains: it goes when no request uses it."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def keep(self, packed: PackedAdapter, info: AdapterInfo) -> None:
        """Take one reference on an adapter, storing it if its digest is new."""
        entry = self._entries.setdefault(info.digest, _Entry(packed, info))
        entry.num_references += 1

    def release(self, digest: str) -> None:
        """Give one reference back. Unknown digests are ignored: the engine was restarted."""
        entry = self._entries.get(digest)
        if entry is not None and entry.num_references > 0:
            entry.num_references -= 1

    def drop(self, digest: str) -> None:
        """Forget an adapter that has no references."""
        assert self._entries[digest].num_references == 0, f"adapter {digest} has references"
        del self._entries[digest]

    def draining(self) -> list[str]:
        """Digests without references."""
        return [digest for digest, entry in self._entries.items() if entry.num_references == 0]

    def packed(self, digest: str) -> PackedAdapter:
        return self._entries[digest].packed

    def is_referenced(self, digest: str) -> bool:
        """Whether a name refers to this digest, so that a request may name it."""
        return digest in self._entries and self._entries[digest].num_references > 0
