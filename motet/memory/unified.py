"""The memory that sequences and adapters share: pool, residency, prefix cache, host tier, policy.

Owns: how these are put together.
Does not know: who is given what (`scheduler/`).
"""

from dataclasses import dataclass
from typing import Any

from motet.memory.eviction import EvictionPolicy
from motet.memory.geometry import PageGeometry
from motet.memory.host_tier import HostTier
from motet.memory.page_pool import PagePool
from motet.memory.prefix_cache import PrefixCache
from motet.memory.reclaim import Reclaimer
from motet.memory.residency import AdapterResidency


@dataclass(frozen=True)
class UnifiedMemory:
    """All bookkeeping over one pool of pages, each of `page_bytes` in all layers together."""

    page_bytes: int
    geometry: PageGeometry
    policy: EvictionPolicy
    pool: PagePool
    residency: AdapterResidency
    prefixes: PrefixCache
    reclaimer: Reclaimer
    host: HostTier[Any]


def unified_memory(
    geometry: PageGeometry,
    policy: EvictionPolicy,
    *,
    page_bytes: int,
    num_pages: int,
    row_capacity: int,
    host_budget_pages: int,
    num_adapter_pages: int | None = None,
) -> UnifiedMemory:
    """Empty memory.

    Args:
        geometry: page sizes.
        policy: what goes first when pages are short.
        page_bytes: bytes of a page, all layers together.
        num_pages: pages of the pool. There is a slot for each, since an adapter takes at least one.
        row_capacity: entries of the row-offset table.
        host_budget_pages: pages of adapters' copies in host memory at most.
        num_adapter_pages: see `PagePool`.
    """
    pool = PagePool(num_pages, num_adapter_pages)
    residency = AdapterResidency(pool, policy, num_pages, row_capacity)
    prefixes = PrefixCache(pool, residency, policy, geometry.page_size)
    return UnifiedMemory(
        page_bytes=page_bytes,
        geometry=geometry,
        policy=policy,
        pool=pool,
        residency=residency,
        prefixes=prefixes,
        reclaimer=Reclaimer(pool, residency, prefixes, policy),
        host=HostTier(host_budget_pages),
    )
