"""What GET /admin/v1/memory answers.

Owns: the types of these JSON objects.
Does not know: how they are made (`memory_json.py`), nor what the numbers mean (`docs/api.md`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from motet.server.openapi.answers_generation import Count

Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


class CachedPages(TypedDict):
    """Pages that may be taken for something else."""

    prefix: Count
    adapters: Count


class Pages(TypedDict):
    """total = free + cached + kv + adapters_in_use."""

    total: Count
    free: Count
    cached: CachedPages
    kv: Count
    adapters_in_use: Count
    pinned: Count
    size_tokens: Count
    size_bytes: Count


class Fragmentation(TypedDict):
    """How full pages are."""

    adapter_fill: Fraction
    kv_fill: Fraction


class DeviceTier(TypedDict):
    """Adapters on the device."""

    adapters: Count
    pages: Count
    bytes: Count


class HostTier(TypedDict):
    """Adapters in host memory."""

    adapters: Count
    bytes_used: Count
    bytes_budget: Count


class DiskTier(TypedDict):
    """Adapters that have a name, and those that were read at least once."""

    named: Count
    known: Count


class Tiers(TypedDict):
    """Where adapters are."""

    device: DeviceTier
    host: HostTier
    disk: DiskTier


class PrefixCache(TypedDict):
    """What was found in it, in tokens."""

    pages: Count
    base_pages: Count
    lookup_tokens: Count
    hit_tokens: Count
    hit_rate: Fraction | None
    evicted_pages: Count


class AdapterCounters(TypedDict):
    """What happened to adapters since the engine's start."""

    hits: Count
    misses: Count
    hit_rate: Fraction | None
    reads: Count
    read_failures: Count
    mean_read_s: Seconds | None
    loads: Count
    mean_load_s: Seconds | None
    evictions: Count
    host_evictions: Count


class Requests(TypedDict):
    """Requests in the engine, and the policy that they wait by."""

    running: Count
    waiting: Count
    preemptions: Count
    refusals: Count
    policy: str


class Work(TypedDict):
    """What the engine has done since its start."""

    steps: Count
    prompt_tokens: Count
    output_tokens: Count


class AdapterMemory(TypedDict):
    """An adapter on the device or in host memory."""

    names: list[str]
    digest: str
    device_state: str | None
    pages: Count
    prefix_pages: Count
    users: Count
    pinned: bool
    host_bytes: Count


class Memory(TypedDict):
    """Where everything is in the engine's memory."""

    pages: Pages
    fragmentation: Fragmentation
    tiers: Tiers
    prefix_cache: PrefixCache
    adapter_counters: AdapterCounters
    requests: Requests
    work: Work
    adapters: list[AdapterMemory]
