"""The names that requests may use, and what each means.

Owns: the table of names, and its index by digest.
Does not know: files, nor how an adapter comes into the engine (`registry.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from motet.core.messages import AdapterInfo
from motet.server.engine_client import AdapterReference


@dataclass(frozen=True, slots=True)
class Adapter:
    """A name and what it means.

    Attributes:
        path: its directory; resolved, once it has been read.
        created_at: when it was named or last loaded, as Unix time [s].
        reference: what its last load took, perhaps in an engine that has died since; None until
            the first load. Its digest is what the name means from then on.
        is_pinned: an admin wants it kept on the device. While an engine holds `reference`, it
            also holds one pin for this name.
        is_static: given at start by name and path, so it is loaded before requests are taken.
    """

    name: str
    path: Path
    created_at: int
    reference: AdapterReference | None = None
    is_pinned: bool = False
    is_static: bool = False

    @property
    def info(self) -> AdapterInfo | None:
        """What is known of its content; None until it has been read."""
        return None if self.reference is None else self.reference.info

    @property
    def digest(self) -> str | None:
        """What the name means; None until it has been read."""
        return None if self.info is None else self.info.digest


class Catalogue:
    """Adapters by name, in the order in which the names came."""

    def __init__(self) -> None:
        self._adapters: dict[str, Adapter] = {}
        self._names: dict[str, dict[str, None]] = {}  # by digest; the inner ones are ordered sets

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    def all(self) -> list[Adapter]:
        """All adapters."""
        return list(self._adapters.values())

    def get(self, name: str) -> Adapter | None:
        """What a name means; None if there is no such name."""
        return self._adapters.get(name)

    def names_of(self, digest: str) -> list[str]:
        """The names that mean this digest."""
        return list(self._names.get(digest, ()))

    def put(self, adapter: Adapter) -> None:
        """Give a name its meaning, in one step."""
        self._drop_from_index(adapter.name)
        self._adapters[adapter.name] = adapter
        if adapter.digest is not None:
            self._names.setdefault(adapter.digest, {})[adapter.name] = None

    def remove(self, name: str) -> None:
        """Forget a name. Raises KeyError if there is none such."""
        self._drop_from_index(name)
        del self._adapters[name]

    def _drop_from_index(self, name: str) -> None:
        adapter = self._adapters.get(name)
        if adapter is None or adapter.digest is None:
            return
        names = self._names[adapter.digest]
        del names[name]
        if not names:
            del self._names[adapter.digest]
