"""The names that there are, and what each means.

Owns: the table of adapters by name, and its index by digest.
Does not know: files, nor how an adapter comes into the engine (`registry.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from motet.server.adapter import Adapter, Version


class Catalogue:
    """Adapters by name, in the order in which the names came.

    Its length, and membership, count the names that requests may use: those with an alias.
    """

    def __init__(self) -> None:
        self._adapters: dict[str, Adapter] = {}
        self._labels: dict[str, dict[str, None]] = {}  # by digest; the inner ones are ordered sets
        self._num_named = 0

    def __len__(self) -> int:
        return self._num_named

    def __contains__(self, name: str) -> bool:
        adapter = self._adapters.get(name)
        return adapter is not None and adapter.alias is not None

    def all(self) -> list[Adapter]:
        """All adapters, also those without an alias."""
        return list(self._adapters.values())

    def paths(self) -> set[Path]:
        """The directories of all versions."""
        versions = (each for adapter in self.all() for each in adapter.versions.values())
        return {version.path for version in versions if version.path is not None}

    def get(self, name: str) -> Adapter | None:
        """What is known under a name; None if nothing is."""
        return self._adapters.get(name)

    def version(self, name: str, number: int) -> Version | None:
        """A version, also one that is draining; None if it is gone."""
        adapter = self._adapters.get(name)
        return None if adapter is None else adapter.versions.get(number)

    def names_of(self, digest: str) -> list[str]:
        """The models that mean this digest: a name, or name@version where no alias names it."""
        return list(self._labels.get(digest, ()))

    def put(self, adapter: Adapter) -> None:
        """Give a name its meaning, in one step."""
        self._forget(adapter.name)
        self._adapters[adapter.name] = adapter
        self._num_named += adapter.name in self
        for digest, label in _labels(adapter):
            self._labels.setdefault(digest, {})[label] = None

    def remove(self, name: str) -> None:
        """Forget a name. Raises KeyError if there is none such."""
        self._forget(name)
        del self._adapters[name]

    def _forget(self, name: str) -> None:
        self._num_named -= name in self
        if (adapter := self._adapters.get(name)) is None:
            return
        for digest, label in _labels(adapter):
            labels = self._labels[digest]
            labels.pop(label, None)
            if not labels:
                del self._labels[digest]


def _labels(adapter: Adapter) -> Iterator[tuple[str, str]]:
    """Each digest once, with what users call it."""
    for number, version in adapter.versions.items():
        if version.digest is not None:
            yield version.digest, adapter.name if number in adapter.targets else version.id
