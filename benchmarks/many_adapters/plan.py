"""How much of everything is measured: in full, quickly, or (in tests) on a tiny model.

Owns: sizes, lengths and counts of every part.
Does not know: how a part measures.

The pool and the host's budget are far smaller than all adapters together: of 2000 adapters of S2,
28 GB in float32, 1 GiB fits in either. Lengths are S-LoRA's where time allows.
"""

from dataclasses import dataclass, replace

from benchmarks.adapter_farm import AdapterKind

MIB = 1 << 20

# S-LoRA's settings S1 and S2, and an adapter that is as small as one can be.
S1 = AdapterKind(name="s1", ranks=(8,))
S2 = AdapterKind(name="s2", ranks=(8, 16, 32, 64))
TINY = AdapterKind(name="tiny", ranks=(1,), modules=("q_proj",), num_layers=1)
SETTINGS = {"S1": S1, "S2": S2}

FEW = 5  # adapters of the side that the many are compared with


@dataclass(frozen=True, kw_only=True)
class TracePlan:
    """A trace of S-LoRA's generator, on two sides in turns. The rate is above capacity."""

    num_requests: int
    rate_per_s: float
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    num_repeats: int


@dataclass(frozen=True, kw_only=True)
class UnifiedPlan:
    """One pool against two.

    Attributes:
        split_shares: of the pages, for adapters alone; the figure is about the first. A request
            of a short trace has more pages of adapter than of KV, so more than half suits it.
    """

    trace: TracePlan
    num_adapters: int
    pool_bytes: int
    host_bytes: int
    split_shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ColdLoadPlan:
    """Streams that decode while short requests come in."""

    num_streams: int
    num_output_tokens: int
    gap_s: float
    num_repeats: int


@dataclass(frozen=True, kw_only=True)
class CachedTtftPlan:
    """Prompts that begin alike. `min_cached_tokens` must come from the cache."""

    num_system_tokens: int
    num_tail_tokens: int
    num_later: int
    num_prompts: int
    min_cached_tokens: int


@dataclass(frozen=True, kw_only=True)
class LeaksPlan:
    """Loads and requests on a server with a small pool and a small host budget.

    Attributes:
        warm_up_share: of both; growth is counted from there on.
    """

    num_cycles: int
    num_requests: int
    num_adapters: int
    num_tiny_adapters: int
    prompt_tokens: tuple[int, int]
    num_at_once: int
    pool_bytes: int
    host_bytes: int
    warm_up_share: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        num_s1: adapters of S1 in the large directory.
        num_s2: those of S2. Traces draw from the first `num_many` of either; cold loads take
            those of S2 that come after.
        max_running: requests that run at once; the pool has room for as many with an adapter each,
            so that throughput does not depend on how many fit.
        limit_s: how long any one run of requests may take.
    """

    num_s1: int
    num_s2: int
    num_many: int
    num_files_per_rank: int
    pool_bytes: int
    host_bytes: int
    max_running: int
    throughput: TracePlan
    unified: UnifiedPlan
    cold_load: ColdLoadPlan
    cached_ttft: CachedTtftPlan
    leaks: LeaksPlan
    limit_s: float = 1800.0

    def with_repeats(self, num_repeats: int) -> "Plan":
        """The same, with this many repeats of each part that takes turns."""
        trace = replace(self.unified.trace, num_repeats=num_repeats)
        return replace(
            self,
            throughput=replace(self.throughput, num_repeats=num_repeats),
            unified=replace(self.unified, trace=trace),
            cold_load=replace(self.cold_load, num_repeats=num_repeats),
        )


FULL = Plan(
    num_s1=7000,
    num_s2=3000,
    num_many=2000,
    num_files_per_rank=32,
    pool_bytes=2048 * MIB,
    host_bytes=1024 * MIB,
    max_running=32,
    throughput=TracePlan(
        num_requests=64,
        rate_per_s=4.0,
        prompt_tokens=(8, 512),
        output_tokens=(8, 512),
        num_repeats=3,
    ),
    unified=UnifiedPlan(
        trace=TracePlan(
            num_requests=48,
            rate_per_s=8.0,
            prompt_tokens=(8, 128),
            output_tokens=(8, 128),
            num_repeats=3,
        ),
        num_adapters=200,
        pool_bytes=192 * MIB,
        host_bytes=512 * MIB,
        split_shares=(0.5, 0.75),
    ),
    cold_load=ColdLoadPlan(num_streams=16, num_output_tokens=192, gap_s=2.0, num_repeats=9),
    cached_ttft=CachedTtftPlan(
        num_system_tokens=512, num_tail_tokens=16, num_later=4, num_prompts=5, min_cached_tokens=496
    ),
    leaks=LeaksPlan(
        num_cycles=10_000,
        num_requests=10_000,
        num_adapters=64,
        num_tiny_adapters=8,
        prompt_tokens=(4, 40),
        num_at_once=16,
        pool_bytes=96 * MIB,
        host_bytes=64 * MIB,
    ),
)

QUICK = replace(
    FULL,
    num_files_per_rank=4,
    throughput=TracePlan(
        num_requests=16,
        rate_per_s=16.0,
        prompt_tokens=(8, 48),
        output_tokens=(8, 48),
        num_repeats=1,
    ),
    unified=replace(
        FULL.unified,
        trace=TracePlan(
            num_requests=16,
            rate_per_s=32.0,
            prompt_tokens=(8, 48),
            output_tokens=(8, 32),
            num_repeats=1,
        ),
        split_shares=(0.5,),
    ),
    cold_load=ColdLoadPlan(num_streams=16, num_output_tokens=40, gap_s=0.5, num_repeats=1),
    cached_ttft=replace(FULL.cached_ttft, num_later=2, num_prompts=2),
    leaks=replace(
        FULL.leaks,
        num_cycles=200,
        num_requests=200,
        warm_up_share=0.5,  # so few requests take so long to fill the pool
    ),
)
