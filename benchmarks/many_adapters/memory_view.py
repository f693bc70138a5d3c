"""What a server says of its memory, under names of our own.

Owns: the one place that knows the fields of GET /admin/v1/memory.
Does not know: what the figures are for.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from benchmarks.server_process import ServerProcess

_IDLE_TIMEOUT_S = 30
_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Events since the engine's start, or between two looks at it.

    Attributes:
        num_hits: queued requests whose adapter was on the device.
        num_reads: adapters that came from disk to host.
        num_loads: adapters that came from host to device.
    """

    num_hits: int
    num_misses: int
    num_reads: int
    num_loads: int
    num_evictions: int
    num_host_evictions: int
    num_prefix_hit_tokens: int
    num_preemptions: int
    num_steps: int

    def since(self, before: Self) -> "Counters":
        """What happened after `before`."""
        return Counters(
            **{
                each.name: getattr(self, each.name) - getattr(before, each.name)
                for each in fields(self)
            }
        )

    @property
    def hit_rate(self) -> float | None:
        """Share of the requests with an adapter that found it on the device."""
        num_requests = self.num_hits + self.num_misses
        return round(self.num_hits / num_requests, 4) if num_requests else None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "hit_rate": self.hit_rate}


@dataclass(frozen=True, kw_only=True)
class MemoryView:
    """Pages of the pool, and what the adapters have of them.

    Attributes:
        num_pages_adapters_in_use: used by a request, being copied, or pinned.
        num_pages_pinned: of these, pinned.
        pages_by_adapter: pages on the device by name.
        num_adapters_known: adapters that the engine holds a reference on.
    """

    num_pages_total: int
    num_pages_free: int
    num_pages_cached_prefix: int
    num_pages_cached_adapters: int
    num_pages_kv: int
    num_pages_adapters_in_use: int
    num_pages_pinned: int
    page_bytes: int
    pages_by_adapter: Mapping[str, int]
    num_adapters_known: int
    counters: Counters

    @property
    def is_idle(self) -> bool:
        """Whether no request has pages, and no adapter is being copied."""
        return self.num_pages_kv == 0 and self.num_pages_adapters_in_use == self.num_pages_pinned

    @property
    def num_pages_adapters(self) -> int:
        """Pages of all adapters on the device."""
        return self.num_pages_cached_adapters + self.num_pages_adapters_in_use

    def pages_as_json(self) -> dict[str, int]:
        prefix = "num_pages_"
        return {
            each.name.removeprefix(prefix): getattr(self, each.name)
            for each in fields(self)
            if each.name.startswith(prefix)
        }


def read_memory(server: ServerProcess) -> MemoryView:
    """A look at the server's memory now."""
    return memory_view(server.get_json("/admin/v1/memory"))


def idle_memory(server: ServerProcess) -> MemoryView:
    """A look at it once nothing runs; if something never ends, as it is then."""
    deadline_s = time.monotonic() + _IDLE_TIMEOUT_S
    while not (view := read_memory(server)).is_idle and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return view


def memory_view(answer: Mapping[str, Any]) -> MemoryView:
    """From the JSON of GET /admin/v1/memory."""
    pages, counters = answer["pages"], answer["adapter_counters"]
    return MemoryView(
        num_pages_total=pages["total"],
        num_pages_free=pages["free"],
        num_pages_cached_prefix=pages["cached"]["prefix"],
        num_pages_cached_adapters=pages["cached"]["adapters"],
        num_pages_kv=pages["kv"],
        num_pages_adapters_in_use=pages["adapters_in_use"],
        num_pages_pinned=pages["pinned"],
        page_bytes=pages["size_bytes"],
        pages_by_adapter={
            name: adapter["pages"] for adapter in answer["adapters"] for name in adapter["names"]
        },
        num_adapters_known=answer["tiers"]["disk"]["known"],
        counters=Counters(
            num_hits=counters["hits"],
            num_misses=counters["misses"],
            num_reads=counters["reads"],
            num_loads=counters["loads"],
            num_evictions=counters["evictions"],
            num_host_evictions=counters["host_evictions"],
            num_prefix_hit_tokens=answer["prefix_cache"]["hit_tokens"],
            num_preemptions=answer["requests"]["preemptions"],
            num_steps=answer["work"]["steps"],
        ),
    )
