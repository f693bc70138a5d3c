"""Where everything is in the engine's memory, as JSON: for people, and for `motet top`.

Owns: the names of the fields, with their units, and the rates that follow from counters.
Does not know: HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from motet.core.messages import AdapterMemory, EngineReady, EngineStats, MemoryReport

Json = dict[str, Any]


def memory_json(
    report: MemoryReport,
    engine: EngineReady,
    *,
    policy: str,
    num_names: int,
    names_of: Callable[[str], Sequence[str]],
) -> Json:
    """The answer of GET /admin/v1/memory.

    Counters run from the engine's start; a rate or mean of nothing is null.

    Args:
        policy: the scheduling policy's name.
        num_names: adapter names that requests may use.
        names_of: the names that mean a digest.
    """
    stats = report.stats
    adapters = sorted(report.adapters, key=_size, reverse=True)
    return {
        "pages": _pages(stats, engine),
        "fragmentation": {"adapter_fill": stats.adapter_fill, "kv_fill": stats.kv_fill},
        "tiers": _tiers(report, engine, num_names),
        "prefix_cache": {
            "pages": stats.num_pages_cached_prefix,
            "base_pages": report.num_base_prefix_pages,
            "lookup_tokens": stats.num_prefix_lookup_tokens,
            "hit_tokens": stats.num_prefix_hit_tokens,
            "hit_rate": _ratio(stats.num_prefix_hit_tokens, stats.num_prefix_lookup_tokens),
            "evicted_pages": stats.num_prefix_evictions,
        },
        "adapter_counters": _adapter_counters(stats),
        "requests": {
            "running": stats.num_running,
            "waiting": stats.num_waiting,
            "preemptions": stats.num_preemptions,
            "refusals": stats.num_refusals,
            "policy": policy,
        },
        "work": {
            "steps": stats.num_steps,
            "prompt_tokens": stats.num_prompt_tokens,
            "output_tokens": stats.num_output_tokens,
        },
        "adapters": [_adapter(each, names_of) for each in adapters],
    }


def _pages(stats: EngineStats, engine: EngineReady) -> Json:
    """total = free + cached + kv + adapters_in_use; pinned ones are among those in use."""
    return {
        "total": stats.num_pages_total,
        "free": stats.num_pages_free,
        "cached": {
            "prefix": stats.num_pages_cached_prefix,
            "adapters": stats.num_pages_cached - stats.num_pages_cached_prefix,
        },
        "kv": stats.num_pages_kv,
        "adapters_in_use": stats.num_pages_adapters_in_use,
        "pinned": stats.num_pages_pinned,
        "size_tokens": engine.page_size,
        "size_bytes": engine.page_bytes,
    }


def _tiers(report: MemoryReport, engine: EngineReady, num_names: int) -> Json:
    stats = report.stats
    num_device_pages = sum(each.num_pages for each in report.adapters)
    return {
        "device": {
            "adapters": len(stats.resident_adapters),
            "pages": num_device_pages,
            "bytes": num_device_pages * engine.page_bytes,
        },
        "host": {
            "adapters": stats.num_adapters_on_host,
            "bytes_used": stats.host_bytes_used,
            "bytes_budget": stats.host_bytes_budget,
        },
        "disk": {"named": num_names, "known": stats.num_adapters_known},
    }


def _adapter_counters(stats: EngineStats) -> Json:
    num_queued = stats.num_adapter_hits + stats.num_adapter_misses
    return {
        "hits": stats.num_adapter_hits,
        "misses": stats.num_adapter_misses,
        "hit_rate": _ratio(stats.num_adapter_hits, num_queued),
        "reads": stats.num_adapter_reads,
        "read_failures": stats.num_adapter_read_failures,
        "mean_read_s": _ratio(stats.adapter_read_s, stats.num_adapter_reads),
        "loads": stats.num_adapter_loads,
        "mean_load_s": _ratio(stats.adapter_load_s, stats.num_adapter_loads),
        "evictions": stats.num_adapter_evictions,
        "host_evictions": stats.num_host_evictions,
    }


def _adapter(adapter: AdapterMemory, names_of: Callable[[str], Sequence[str]]) -> Json:
    return {
        "names": list(names_of(adapter.digest)),
        "digest": adapter.digest,
        "device_state": adapter.device_state,
        "pages": adapter.num_pages,
        "prefix_pages": adapter.num_prefix_pages,
        "users": adapter.num_users,
        "pinned": adapter.is_pinned,
        "host_bytes": adapter.host_bytes,
    }


def _size(adapter: AdapterMemory) -> tuple[int, int, str]:
    """Its order: the biggest on the device, then the biggest in host memory."""
    return adapter.num_pages + adapter.num_prefix_pages, adapter.host_bytes, adapter.digest


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
