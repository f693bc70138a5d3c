"""Which eviction order saves most: by expected saving per page, or least recently used?

    python -m benchmarks.eviction

Requests come one after another over a pool that is far smaller than all adapters and prompts. Each
names an adapter (Zipf popularity), and its prompt begins with one of that adapter's few system
prompts or, for a share of the requests, with tokens that never come again. What counts is the time
spent on bringing things back: adapters copied in, and pages of KV computed again although they had
been there before. The real pool, prefix cache, residency and policies do the bookkeeping; nothing
is computed. Popularity shifts half-way: the ranks of all adapters are drawn anew.

The last line of the output is one JSON object: seconds by policy and half-life, for each workload.
"""

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from motet.core.shape import ModelShape
from motet.memory.eviction import EvictionPolicy, LruPolicy, PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry
from motet.memory.page_pool import ADAPTER, KV
from motet.memory.unified import UnifiedMemory, unified_memory

PAGE_SIZE = 16
SHAPE = ModelShape(
    num_layers=1,
    hidden_size=2,
    intermediate_size=2,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    vocab_size=50_000,
)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is asked for. Costs are seconds per page."""

    num_requests: int = 20_000
    num_pages: int = 1_000
    num_adapters: int = 1_000
    adapter_pages: tuple[int, ...] = (5, 10, 20, 40)
    zipf: float = 1.0
    system_prompt_pages: int = 16
    num_system_prompts: int = 2  # of each adapter
    unique_share: float = 0.5  # of the requests: nothing of their prompt comes again
    prefix_s: float = 16e-3
    adapter_s: float = 1e-3


WORKLOADS = {
    "shared prompts": Workload(unique_share=0.0),
    "half shared": Workload(),
    "unique prompts": Workload(unique_share=1.0),
    "flat popularity": Workload(zipf=0.5),
}


def spent_s(work: Workload, policy: EvictionPolicy, seed: int) -> float:
    """Seconds spent on bringing back what had been there before."""
    memory = unified_memory(
        PageGeometry(SHAPE, PAGE_SIZE),
        policy,
        page_bytes=1,
        num_pages=work.num_pages,
        row_capacity=work.num_pages,
        host_budget_pages=1,
    )
    for index in range(work.num_adapters):
        size = work.adapter_pages[index % len(work.adapter_pages)]
        memory.residency.register(f"a{index}", num_pages=size, num_rows=1)
    rng = random.Random(seed)
    weights = list(accumulate(1 / rank**work.zipf for rank in range(1, work.num_adapters + 1)))
    order = list(range(work.num_adapters))
    rng.shuffle(order)
    seen: set[tuple[int, int]] = set()
    seconds = 0.0
    for number in range(work.num_requests):
        if number == work.num_requests // 2:
            rng.shuffle(order)
        (index,) = rng.choices(order, cum_weights=weights)
        is_unique = rng.random() < work.unique_share
        prompt = number if is_unique else -1 - rng.randrange(work.num_system_prompts)
        served = _serve(memory, work, f"a{index}", prompt)
        if served.was_loaded:
            seconds += memory.residency.num_pages(f"a{index}") * work.adapter_s
        if (index, prompt) in seen:
            seconds += served.num_computed_pages * work.prefix_s
        seen.add((index, prompt))
    return seconds


@dataclass(frozen=True)
class _Served:
    was_loaded: bool
    num_computed_pages: int


def _serve(memory: UnifiedMemory, work: Workload, digest: str, prompt: int) -> _Served:
    """One request, from the queue to its end."""
    memory.policy.tick()
    memory.residency.want(digest)
    was_loaded = not memory.residency.is_resident(digest)
    if was_loaded:
        has_room = memory.reclaimer.make_room(
            memory.residency.num_pages(digest), ADAPTER, {digest}, []
        )
        assert has_room
        placement = memory.residency.begin_load(digest)
        assert placement is not None
        memory.residency.finish_load(digest)
    memory.residency.acquire(digest)
    scope = (None, digest)
    tokens = [(prompt * 7919 + i) % 49_999 for i in range(work.system_prompt_pages * PAGE_SIZE)]
    held = memory.prefixes.match(scope, tokens, work.system_prompt_pages)
    memory.prefixes.acquire(held)
    memory.prefixes.touch(held)
    num_new = work.system_prompt_pages - len(held)
    has_room = memory.reclaimer.make_room(num_new, KV, {digest}, [])
    assert has_room
    pages = memory.pool.allocate(num_new, "kv:x")
    assert pages is not None
    for page in pages:
        start = len(held) * PAGE_SIZE
        parent = held[-1] if held else None
        page_tokens = tokens[start : start + PAGE_SIZE]
        held.append(memory.prefixes.extend(scope, parent, page_tokens, page, "kv:x"))
    memory.prefixes.release(held)
    memory.residency.release(digest)
    return _Served(was_loaded, num_new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=Workload.num_requests)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result: dict[str, dict[str, float]] = {}
    for name, work in WORKLOADS.items():
        work = Workload(**{**vars(work), "num_requests": options.requests})
        costs = PageCosts(work.prefix_s, work.adapter_s)
        policies: dict[str, Callable[[], EvictionPolicy]] = {"lru": LruPolicy}
        for half_life in (32, 128, 512, 2048, 8192):
            policies[f"saving H={half_life}"] = partial(SavingPolicy, costs, half_life)
        result[name] = {
            policy: round(spent_s(work, make(), options.seed), 1)
            for policy, make in policies.items()
        }
        print(name, result[name])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
