"""What the engine tells about its memory and its work.

Owns: how the figures of `EngineStats` and `MemoryReport` come about.
Does not know: what they are used for.
"""

from dataclasses import dataclass

from motet.core.messages import AdapterMemory, EngineStats, MemoryReport
from motet.engine.adapters import EngineAdapters
from motet.memory.page_pool import ADAPTER, KV, PREFIX
from motet.memory.unified import UnifiedMemory
from motet.scheduler.scheduler import Scheduler


@dataclass
class StepCounts:
    """What the engine did since its start."""

    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0


def stats(
    operation_id: str,
    scheduler: Scheduler,
    memory: UnifiedMemory,
    adapters: EngineAdapters,
    counts: StepCounts,
) -> EngineStats:
    """A snapshot. It visits no pages: it is taken at each scrape, between two steps."""
    pool, residency, prefixes, host = (
        memory.pool,
        memory.residency,
        memory.prefixes,
        memory.host,
    )
    resident = residency.resident()
    num_prefix_used = pool.num_owned(PREFIX) - prefixes.num_idle_pages
    loader = adapters.counts
    return EngineStats(
        operation_id=operation_id,
        num_pages_total=pool.num_pages,
        num_pages_free=pool.num_free,
        num_pages_cached=prefixes.num_idle_pages + residency.num_idle_pages,
        num_pages_cached_prefix=prefixes.num_idle_pages,
        num_pages_kv=pool.num_owned(KV) + num_prefix_used,
        num_pages_adapters_in_use=pool.num_owned(ADAPTER) - residency.num_idle_pages,
        num_pages_pinned=sum(residency.num_pages(d) for d in resident if residency.is_pinned(d)),
        adapter_fill=_adapter_fill(memory, adapters, resident),
        kv_fill=scheduler.kv_fill,
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        num_preemptions=scheduler.num_preemptions,
        num_refusals=scheduler.num_refusals,
        num_steps=counts.num_steps,
        num_prompt_tokens=counts.num_prompt_tokens,
        num_output_tokens=counts.num_output_tokens,
        num_prefix_lookup_tokens=scheduler.pages.num_lookup_tokens,
        num_prefix_hit_tokens=scheduler.pages.num_hit_tokens,
        num_prefix_evictions=prefixes.num_evictions,
        num_adapters_known=residency.num_known,
        host_bytes_budget=host.budget_pages * memory.page_bytes,
        host_bytes_used=host.num_pages * memory.page_bytes,
        num_adapters_on_host=host.num_copies,
        num_adapter_hits=scheduler.num_adapter_hits,
        num_adapter_misses=scheduler.num_adapter_misses,
        num_adapter_reads=loader.num_reads,
        num_adapter_read_failures=loader.num_read_failures,
        adapter_read_s=loader.read_s,
        num_adapter_loads=residency.num_loads,
        adapter_load_s=loader.load_s,
        num_adapter_evictions=residency.num_evictions,
        num_host_evictions=host.num_evictions,
        running_adapters=sorted(scheduler.running_adapters()),
        waiting_adapters=sorted(scheduler.waiting_adapters()),
        resident_adapters=sorted(resident),
    )


def memory_report(
    operation_id: str,
    scheduler: Scheduler,
    memory: UnifiedMemory,
    adapters: EngineAdapters,
    counts: StepCounts,
) -> MemoryReport:
    """Where everything is. Visits every page to verify the pool first: none may be lost unseen.

    Raises:
        PoolCorruptionError: pages are lost, or held twice.
    """
    scheduler.check()
    residency, prefixes = memory.residency, memory.prefixes
    states = dict.fromkeys(residency.loading(), "loading")
    states |= dict.fromkeys(residency.resident(), "resident")
    copies = memory.host.copies()
    return MemoryReport(
        operation_id=operation_id,
        stats=stats(operation_id, scheduler, memory, adapters, counts),
        num_base_prefix_pages=prefixes.num_pages_of(None),
        adapters=[
            AdapterMemory(
                digest=digest,
                device_state=states.get(digest),
                num_pages=residency.num_pages(digest) if digest in states else 0,
                num_prefix_pages=prefixes.num_pages_of(digest),
                num_users=residency.num_users(digest),
                is_pinned=residency.is_pinned(digest),
                host_bytes=copies.get(digest, 0) * memory.page_bytes,
            )
            for digest in sorted({*states, *copies})
        ],
    )


def _adapter_fill(memory: UnifiedMemory, adapters: EngineAdapters, resident: list[str]) -> float:
    """Elements of the rank rows over the elements of the pages they lie in; 1 without any."""
    page_elems = memory.geometry.page_elems * memory.geometry.shape.num_layers
    num_elems = sum(memory.residency.num_pages(digest) for digest in resident) * page_elems
    num_used = sum(adapters.num_elems(digest) for digest in resident)
    return num_used / num_elems if num_elems else 1.0
