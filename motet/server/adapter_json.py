"""Adapters, versions and operations as the admin API shows them.

Owns: the names of the fields.
Does not know: HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motet.core.messages import AdapterMemory, MemoryReport
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
    return {
        "id": version.id,
        "version": version.number,
        "state": registry.state_of(version).value,
        "reason": version.reason,
        **kind_json(version),
        "digest": version.digest,
        "source": source_json(version.source),
        "composition": composition_json(version),
        "max_rank": None if info is None else info.max_rank,
        "modules": None if info is None else info.modules,
        "num_parameters": None if info is None else info.num_parameters,
        "num_pages": None if info is None else info.num_pages,
        "created_at": version.created_at,
        "created_by": version.created_by,
        "users": registry.leases.count(version.id),
        "last_used": registry.leases.last_used(version.id),
        "tier": None if tiers is None else _version_tier(version, tiers),
    }


def kind_json(version: Version) -> Json:
    """What a model is, and of a routed set how it chooses among what."""
    info = version.info
    if info is None:  # it has not been read
        return {"kind": None, "routing": None}
    kind = kind_of(info, has_parts=bool(version.parts)).value
    if (routed := info.routed) is None:
        return {"kind": kind, "routing": None}
    experts = zip(routed.names, routed.experts, strict=True)
    return {
        "kind": kind,
        "routing": {
            "method": routed.method,
            "experts": [{"name": name, "digest": digest} for name, digest in experts],
            "shared": routed.shared,
        },
    }


def composition_json(version: Version) -> dict[str, float] | None:
    """Weights by the versions that a composition is made of; None for an adapter."""
    return {part.version_id: part.weight for part in version.parts} or None


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


def _version_tier(version: Version, tiers: Tiers) -> str:
    """Where it is; of a composition, where the part is that is furthest away."""
    digests = [part.digest for part in version.parts] or [version.digest or ""]
    found = {tiers.get(digest, "disk") for digest in digests}
    return next(tier for tier in ("disk", "host", "device") if tier in found)


def _tier(memory: AdapterMemory) -> str:
    if memory.device_state == "resident":
        return "device"
    return "host" if memory.host_bytes else "disk"
