"""The adapters that the engine knows: what they are, where their files lie, who refers to them.

Owns: references on digests, and the paths that an adapter can be read from again.
Does not know: names (`server/registry.py`), nor where a copy is (`memory/`).

A reference on a routed set is one on each of its members, too: as long as the set can be named,
they stay, whatever becomes of their own names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from motet.core.messages import AdapterInfo
from motet.engine.read_adapter import Part, Source


@dataclass(frozen=True)
class _Reference:
    """Attributes: where it was read from; the members that it refers to, with their paths."""

    source: Source
    members: tuple[tuple[str, str], ...]


@dataclass
class _Entry:
    info: AdapterInfo
    num_elems: int
    last_source: Source
    references: list[_Reference] = field(default_factory=list)  # the latest last


class AdapterStore:
    """Adapters by digest. One without references drains: it goes when no request uses it."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._draining: set[str] = set()

    def refer(self, parts: Sequence[Part]) -> None:
        """Take one reference on what was read, an adapter or a set with its members."""
        first, *others = parts
        self._refer(first, tuple((part.digest, part.source.path) for part in others))
        for part in others:
            self._refer(part, ())

    def _refer(self, part: Part, members: tuple[tuple[str, str], ...]) -> None:
        num_elems = part.packed.layout.num_elems
        entry = self._entries.setdefault(part.digest, _Entry(part.info, num_elems, part.source))
        entry.last_source = part.source
        entry.references.append(_Reference(part.source, members))
        self._draining.discard(part.digest)

    def release(self, digest: str, path: str) -> None:
        """Give one reference back. Unknown ones are ignored: the engine was restarted."""
        entry = self._entries.get(digest)
        references = [] if entry is None else entry.references
        reference = next((each for each in references if each.source.path == path), None)
        if reference is None:
            return
        references.remove(reference)
        if not references:
            self._draining.add(digest)
        for member, member_path in reference.members:
            self.release(member, member_path)

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

    def num_elems(self, digest: str) -> int:
        """Elements of its rank rows; of a set, of its gates."""
        return self._entries[digest].num_elems

    def sources(self, digest: str) -> list[Source]:
        """Directories that held this content when they were read, the latest first.

        A draining adapter may still be there, for the requests that it drains for.
        """
        entry = self._entries[digest]
        sources = [reference.source for reference in reversed(entry.references)]
        return list(dict.fromkeys(sources)) or [entry.last_source]

    def is_referenced(self, digest: str) -> bool:
        """Whether a name refers to this digest, so that a request may name it."""
        return digest in self._entries and bool(self._entries[digest].references)
