"""Which routed sets use which versions of adapters.

Owns: this question, for whoever would let a version go.
Does not know: whether it may go (`adapter_changes.py`, `deployments.py`).

A set that drains uses nothing: what its last requests need, the engine keeps for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from motet.adapters.router_config import read_router_config
from motet.core.errors import AdapterError
from motet.core.messages import RoutedSetInfo
from motet.server.adapter import Adapter, Version


def expert_digests(adapters: Iterable[Adapter]) -> set[str]:
    """The contents that routed sets are made of."""
    return {digest for _, routed in _sets(adapters) for digest in (*routed.experts, *routed.shared)}


def sets_that_name(adapter: Adapter, number: int, adapters: Iterable[Adapter]) -> list[str]:
    """The ids of the routed sets that need this version of an adapter.

    A set whose own directory has a copy of it does not. Only the set's configuration says where
    its experts lie, so it is read: call this in a thread.
    """
    version = adapter.versions[number]
    return [each.id for each, routed in _sets(adapters) if _names(each, routed, adapter, version)]


def _sets(adapters: Iterable[Adapter]) -> Iterator[tuple[Version, RoutedSetInfo]]:
    for adapter in adapters:
        for version in adapter.versions.values():
            routed = None if version.info is None else version.info.routed
            if routed is not None and not version.is_draining:
                yield version, routed


def _names(routed_set: Version, routed: RoutedSetInfo, adapter: Adapter, version: Version) -> bool:
    if version.digest is not None and version.digest not in (*routed.experts, *routed.shared):
        return False
    assert routed_set.path is not None  # it has been read there
    try:
        config = read_router_config(routed_set.path)
    except AdapterError:  # its files are gone for now, and may come back
        return version.digest is not None
    # A version that was found and never read is what a set got that asked for this name, unless
    # another version has the digest.
    return any(
        ref.path is None
        and ref.name == adapter.name
        and version == (adapter.with_digest(ref.digest) or adapter.unread)
        for ref in config.members
    )
