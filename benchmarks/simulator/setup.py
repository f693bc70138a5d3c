"""A server as it is simulated: the model, the device, and the options that a server has.

Owns: `Setup`, and the memory that is made from it.
Does not know: workloads, nor time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.simulator.devices import Device
from benchmarks.simulator.models import ATTENTION
from motet.core.shape import ModelShape
from motet.memory.device_pool import row_capacity
from motet.memory.eviction import PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry, lay_out_adapter, smallest_page_size
from motet.memory.unified import UnifiedMemory, unified_memory
from motet.scheduler.policies.choose import PolicyOptions, make_policy
from motet.scheduler.policy import PolicyFactory

PolicyMaker = Callable[[], PolicyFactory]
"""Makes the policy of one run, with all that its priorities share."""


def policy(spec: str, *, ttft_slo_s: float = 6.0, num_cluster_adapters: int = 8) -> PolicyMaker:
    """The policies that `--policy` knows, anew for each run."""
    options = PolicyOptions(ttft_slo_s=ttft_slo_s, num_cluster_adapters=num_cluster_adapters)
    return lambda: make_policy(spec, options)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A server.

    Attributes:
        model: the decoder's name, for reports.
        num_pool_tokens: KV tokens that the pool holds without adapters.
        policy: who is served first.
        elem_bytes: of weights, KV and adapters.
        max_step_tokens, max_running, num_loader_threads: as the server's options.
        keeps_prefixes: use a prefix cache.
        adapter_share: of the pool, for adapters alone in a static partition; None is one pool.
        host_bytes: for adapters' copies.
        starts_on_host: adapters are in host memory from the start, as far as they fit.
        default_rank: of adapters whose rank no workload tells.
        merges: one adapter at a time is merged into the weights, so LoRA costs nothing in the step.
    """

    model: str
    shape: ModelShape
    device: Device
    num_pool_tokens: int
    policy: PolicyMaker = field(default_factory=lambda: policy("fcfs"))
    elem_bytes: int = 2
    max_step_tokens: int = 512
    max_running: int = 256
    num_loader_threads: int = 2
    keeps_prefixes: bool = False
    adapter_share: float | None = None
    host_bytes: int = 256 << 30
    starts_on_host: bool = True
    default_rank: int = 16
    merges: bool = False

    @property
    def name(self) -> str:
        return f"{self.device.name}/{self.model}"

    def make_memory(self, ranks: Mapping[str, int], costs: PageCosts) -> UnifiedMemory:
        """The memory of a server that has just started.

        Args:
            ranks: of the adapters that it knows, by digest.
            costs: what bringing a page back takes; it is learnt meanwhile.
        """
        geometry = PageGeometry(self.shape, smallest_page_size(self.shape))
        num_pages = self.num_pool_tokens // geometry.page_size
        page_bytes = geometry.page_bytes(self.elem_bytes)
        share = self.adapter_share
        memory = unified_memory(
            geometry,
            SavingPolicy(costs),
            page_bytes=page_bytes,
            num_pages=num_pages,
            row_capacity=row_capacity(geometry, num_pages),
            host_budget_pages=self.host_bytes // page_bytes,
            num_adapter_pages=None if share is None else round(share * num_pages),
        )
        sizes = {rank: self._size(geometry, rank) for rank in set(ranks.values())}
        for digest, rank in ranks.items():
            num_adapter_pages, num_rows = sizes[rank]
            memory.residency.register(digest, num_pages=num_adapter_pages, num_rows=num_rows)
            has_room = memory.host.num_pages + num_adapter_pages <= memory.host.budget_pages
            if self.starts_on_host and has_room:
                memory.host.offer(digest, num_adapter_pages, digest)
        return memory

    def _size(self, geometry: PageGeometry, rank: int) -> tuple[int, int]:
        """Pages and rows of an adapter of this rank."""
        touched = [(layer, m) for layer in range(self.shape.num_layers) for m in ATTENTION]
        layout = lay_out_adapter(geometry, dict.fromkeys(touched, rank))
        return layout.num_pages, layout.num_rows
