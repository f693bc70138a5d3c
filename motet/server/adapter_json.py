"""Adapters, versions and operations as the admin API shows them.

Owns: the names of the fields.
Does not know: HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motet.core.messages import AdapterInfo, AdapterMemory, MemoryReport
from motet.server.adapter import Adapter, Source, Version, kind_of
from motet.server.errors import error_body
from motet.server.operations import Operation
from motet.server.records import shares_json
from motet.server.registry import AdapterRegistry

Json = dict[str, Any]
Tiers = Mapping[str, str]  # "device" or "host" by digest; all others are on disk


def tiers_of(report: MemoryReport) -> Tiers:
    """Where each adapter is that is not on disk alone."""
    return {each.digest: _tier(each) for each in report.adapters}


def adapter_json(registry: AdapterRegistry, adapter: Adapter, tiers: Tiers | None) -> Json:
    """A name with its alias and versions.

    Args:
        tiers: where adapters are; None if the engine did not say.
    """
    alias = adapter.alias
    return {
        "name": adapter.name,
        "alias": None
        if alias is None
        else {
            "weights": shares_json(alias.weights),
            "etag": alias.etag,
            "history": [shares_json(weights) for weights in adapter.history],
        },
        "pinned": adapter.is_pinned,
        "static": adapter.is_static,
        "versions": [version_json(registry, each, tiers) for each in adapter.versions.values()],
    }


def version_json(registry: AdapterRegistry, version: Version, tiers: Tiers | None) -> Json:
    """A version: what it is, where it came from, how far it has come, who uses it."""
    info = version.info
    tier = "disk" if version.digest is None or tiers is None else tiers.get(version.digest, "disk")
    return {
        "id": version.id,
        "version": version.number,
        "state": registry.state_of(version).value,
        "reason": version.reason,
        **kind_json(info),
        "digest": version.digest,
        "source": source_json(version.source),
        "max_rank": None if info is None else info.max_rank,
        "modules": None if info is None else info.modules,
        "num_parameters": None if info is None else info.num_parameters,
        "num_pages": None if info is None else info.num_pages,
        "created_at": version.created_at,
        "created_by": version.created_by,
        "users": registry.leases.count(version.id),
        "last_used": registry.leases.last_used(version.id),
        "tier": None if tiers is None else tier,
    }


def kind_json(info: AdapterInfo | None) -> Json:
    """What a model is: an adapter or a routed set, and of a set how it chooses among what."""
    if info is None:  # it has not been read
        return {"kind": None, "routing": None}
    if (routed := info.routed) is None:
        return {"kind": kind_of(info).value, "routing": None}
    experts = zip(routed.names, routed.experts, strict=True)
    return {
        "kind": kind_of(info).value,
        "routing": {
            "method": routed.method,
            "experts": [{"name": name, "digest": digest} for name, digest in experts],
            "shared": routed.shared,
        },
    }


def source_json(source: Source) -> Json:
    """A provenance."""
    return {"type": source.type.value, "uri": source.uri, "revision": source.revision}


def operation_json(operation: Operation) -> Json:
    """How a load stands."""
    error = operation.error
    return {
        "id": operation.id,
        "adapter": operation.adapter,
        "version": operation.version,
        "state": operation.state.value,
        "error": None if error is None else error_body(error)["error"],
        "created_at": operation.created_at,
        "ended_at": operation.ended_at,
    }


def _tier(memory: AdapterMemory) -> str:
    if memory.device_state == "resident":
        return "device"
    return "host" if memory.host_bytes else "disk"
