"""Small pools for tests of the bookkeeping: adapters by size, prefixes by their tokens.

Owns: short ways to load, use and cache something.
Does not know: what is promised; each test says that itself.
"""

from collections.abc import Mapping, Sequence

from motet.core.shape import ModelShape
from motet.memory.eviction import EvictionPolicy, PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry
from motet.memory.page_pool import ADAPTER
from motet.memory.prefix_cache import PrefixPage, Scope
from motet.memory.residency import Placement
from motet.memory.unified import UnifiedMemory, unified_memory

ROWS_PER_PAGE = 3
SHAPE = ModelShape(
    num_layers=1,
    hidden_size=2,
    intermediate_size=2,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    vocab_size=11,
)


def small_memory(
    num_pages: int,
    adapters: Mapping[str, int] | None = None,
    *,
    page_size: int = 1,
    policy: EvictionPolicy | None = None,
    num_adapter_pages: int | None = None,
    host_budget_pages: int = 0,
) -> UnifiedMemory:
    """A pool with these adapters known, by digest and pages."""
    memory = unified_memory(
        PageGeometry(SHAPE, page_size),
        policy or SavingPolicy(PageCosts()),
        page_bytes=1,
        num_pages=num_pages,
        row_capacity=num_pages * ROWS_PER_PAGE,
        host_budget_pages=host_budget_pages,
        num_adapter_pages=num_adapter_pages,
    )
    for digest, size in (adapters or {}).items():
        register(memory, digest, size)
    return memory


def register(memory: UnifiedMemory, digest: str, num_pages: int = 1) -> None:
    num_rows = num_pages * ROWS_PER_PAGE
    memory.residency.register(digest, num_pages=num_pages, num_rows=num_rows)


def load(memory: UnifiedMemory, *digests: str) -> Placement:
    """Bring adapters to where there is room for them; the placement of the last."""
    for digest in digests:
        placement = memory.residency.begin_load(digest)
        assert placement is not None
        memory.residency.finish_load(digest)
    return placement


def request_adapter(memory: UnifiedMemory, digest: str) -> bool:
    """One request from its arrival to its end; whether its adapter was on the device."""
    memory.policy.tick()
    memory.residency.want(digest)
    was_resident = memory.residency.is_resident(digest)
    if not was_resident:
        num_pages = memory.residency.num_pages(digest)
        assert memory.reclaimer.make_room(num_pages, ADAPTER, {digest}, [])
        load(memory, digest)
    memory.residency.acquire(digest)
    memory.residency.release(digest)
    return was_resident


def compute(
    memory: UnifiedMemory, scope: Scope, token_ids: Sequence[int], owner: str = "kv:r"
) -> list[PrefixPage]:
    """Compute all whole pages of these tokens, whatever is cached; they stay in use."""
    page_size = memory.geometry.page_size
    kept: list[PrefixPage] = []
    for start in range(0, len(token_ids) // page_size * page_size, page_size):
        pages = memory.pool.allocate(1, owner)
        assert pages is not None
        tokens = token_ids[start : start + page_size]
        parent = kept[-1] if kept else None
        kept.append(memory.prefixes.extend(scope, parent, tokens, pages[0], owner))
    return kept


def cache(memory: UnifiedMemory, scope: Scope, token_ids: Sequence[int]) -> list[PrefixPage]:
    """Compute pages, and use them no longer."""
    kept = compute(memory, scope, token_ids)
    memory.prefixes.release(kept)
    return kept


def cached_tokens(memory: UnifiedMemory, scope: Scope, token_ids: Sequence[int]) -> int:
    """How many of these tokens, from the first, are cached."""
    page_size = memory.geometry.page_size
    return len(memory.prefixes.match(scope, token_ids, len(token_ids) // page_size)) * page_size
