"""The adapters that the engine knows: what they are, where their files lie, who refers to them.

Owns: references on digests, pins, and the paths that an adapter can be read from again.
Does not know: names (`server/registry.py`), nor where a copy is (`memory/`).
"""

from dataclasses import dataclass, field

from motet.core.messages import AdapterInfo


@dataclass
class _Entry:
    info: AdapterInfo
    last_path: str
    references: list[str] = field(default_factory=list)  # the path of each, the latest last


class AdapterStore:
    """Adapters by digest. One without references drains: it goes when no request uses it."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._draining: set[str] = set()

    def refer(self, info: AdapterInfo, path: str) -> None:
        """Take one reference on an adapter that was read from `path`."""
        entry = self._entries.setdefault(info.digest, _Entry(info, path))
        entry.last_path = path
        entry.references.append(path)
        self._draining.discard(info.digest)

    def release(self, digest: str, path: str) -> None:
        """Give one reference back. Unknown ones are ignored: the engine was restarted."""
        entry = self._entries.get(digest)
        if entry is None or path not in entry.references:
            return
        entry.references.remove(path)
        if not entry.references:
            self._draining.add(digest)

    def drop(self, digest: str) -> None:
        """Forget an adapter that has no references."""
        assert digest in self._draining, f"adapter {digest} has references"
        self._draining.remove(digest)
        del self._entries[digest]

    def draining(self) -> list[str]:
        """Digests without references."""
        return list(self._draining)

    def info(self, digest: str) -> AdapterInfo:
        return self._entries[digest].info

    def paths(self, digest: str) -> list[str]:
        """Directories that held this content when they were read, the latest first.

        A draining adapter may still be there, for the requests that it drains for.
        """
        entry = self._entries[digest]
        return list(dict.fromkeys(reversed(entry.references))) or [entry.last_path]

    def is_referenced(self, digest: str) -> bool:
        """Whether a name refers to this digest, so that a request may name it."""
        return digest in self._entries and bool(self._entries[digest].references)
