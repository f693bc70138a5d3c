"""How many sequences a second does the scheduler alone handle, and does it cost more with more
adapters?

    python -m benchmarks.scheduler
    python -m benchmarks.scheduler --policy fair+cluster

The real scheduler over the real bookkeeping of memory, on one core, with a device that takes no
time. A thousand sequences wait throughout: whenever one ends another arrives. Each names one of a
few hundred adapters (Zipf), of which a part is on the device, so adapters come and go; each has a
prompt of its own, so prefix pages are kept and evicted. Timed is everything that the scheduler
does: queueing, scheduling, committing.

The last line of the output is one JSON object:

    sequences_per_s         sequences in all scheduled steps over the time: each counts once in each
                            step that computes something of it
    whole_sequences_per_s   sequences that came, waited, ran and ended, over the time
    cost_ratio_100k_adapters    time of the same work with 100,000 adapters registered, over that
                            with 1,000; both use the same few hundred
    cost_ratio_waiting      time of the same work with 1,000 waiting, over that with 16
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from motet.bench.environment import describe_machine
from motet.core.config import EngineConfig
from motet.core.messages import AddRequest
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape
from motet.memory.eviction import PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry
from motet.memory.unified import UnifiedMemory, unified_memory
from motet.scheduler.policies.choose import PolicyOptions, make_policy
from motet.scheduler.scheduler import Scheduler

_SHAPE = ModelShape(
    num_layers=1,
    hidden_size=2,
    intermediate_size=2,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    vocab_size=50_000,
)
_PAGE_SIZE = 16
_PAGES_PER_ADAPTER = 4
_NUM_USED_ADAPTERS = 500
_NUM_RESIDENT_ADAPTERS = 200  # about as many have room


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the scheduler is given. Lengths are in tokens, from the first to the second."""

    policy: str = "fcfs"
    num_adapters: int = 1_000
    num_waiting: int = 1_000
    max_running: int = 256
    num_steps: int = 600
    prompt_tokens: tuple[int, int] = (16, 128)
    output_tokens: tuple[int, int] = (8, 64)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What it did."""

    seconds: float
    num_scheduled: int
    num_ended: int


class _Lab:
    """A scheduler at work, with someone who sends requests and a device that takes no time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._rng = random.Random(load.seed)
        self._memory = _memory(load)
        defaults = EngineConfig()
        options = PolicyOptions(
            ttft_slo_s=1e9,  # nobody is refused: the work is the same for all policies
            num_cluster_adapters=defaults.num_cluster_adapters,
        )
        self.scheduler = Scheduler(
            self._memory,
            max_step_tokens=2048,
            max_running=load.max_running,
            make_policy=make_policy(load.policy, options),
        )
        ranks = range(1, _NUM_USED_ADAPTERS + 1)
        self._popularity = list(accumulate(1 / rank for rank in ranks))
        self._num_sent = 0

    def request(self) -> AddRequest:
        """One more request, with a prompt of its own."""
        [adapter] = self._rng.choices(range(_NUM_USED_ADAPTERS), cum_weights=self._popularity)
        length = self._rng.randint(*self._load.prompt_tokens)
        self._num_sent += 1
        return AddRequest(
            f"r{self._num_sent}",
            [(self._num_sent * 7919 + position) % 50_000 for position in range(length)],
            SamplingParams(max_tokens=self._rng.randint(*self._load.output_tokens)),
            f"a{adapter}",
            tenant=f"t{self._num_sent % 20}",
        )

    def step(self, arriving: Sequence[AddRequest]) -> tuple[float, int, int]:
        """One step: seconds of the scheduler, sequences in it, sequences that ended."""
        start_s = time.perf_counter()
        for request in arriving:
            self.scheduler.add(request)
        plan = self.scheduler.schedule()
        tokens = [0] * sum(chunk.samples for chunk in plan.batch.chunks)
        outputs = self.scheduler.commit(plan.batch, tokens)
        seconds = time.perf_counter() - start_s
        for placement in plan.copies:
            self._memory.host.let_go(placement.digest)
            self._memory.residency.finish_load(placement.digest)
        num_ended = sum(output.finish_reason is not None for output in outputs)
        return seconds, len(plan.batch.chunks), num_ended


def measure(load: Load) -> Outcome:
    """Run steps until as many are done as asked for; the first tenth is not counted."""
    lab = _Lab(load)
    seconds, num_scheduled, num_ended = 0.0, 0, 0
    for number in range(load.num_steps + load.num_steps // 10):
        num_missing = load.num_waiting - lab.scheduler.num_waiting
        # The queue is full before the first step, and those that the last step took are replaced.
        took_s, scheduled, ended = lab.step([lab.request() for _ in range(num_missing)])
        if number >= load.num_steps // 10:
            seconds += took_s
            num_scheduled += scheduled
            num_ended += ended
    return Outcome(seconds=seconds, num_scheduled=num_scheduled, num_ended=num_ended)


def report(load: Load, num_repeats: int) -> dict[str, object]:
    """The figures; the sides of each ratio take turns."""
    sides = {
        "usual": load,
        "many_adapters": replace(load, num_adapters=100_000),
        "few_waiting": replace(load, num_waiting=16),
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in sides}
    for repeat in range(num_repeats):
        for name, side in sides.items():
            outcomes[name].append(measure(replace(side, seed=load.seed + repeat)))
            print(f"repeat {repeat + 1}, {name}: {outcomes[name][-1]}", file=sys.stderr)

    def per_scheduled(name: str) -> list[float]:
        return [each.seconds / each.num_scheduled for each in outcomes[name]]

    def ratio(name: str, to: str) -> float:
        pairs = zip(per_scheduled(name), per_scheduled(to), strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    usual = outcomes["usual"]
    return {
        "sequences_per_s": round(1 / statistics.median(per_scheduled("usual"))),
        "whole_sequences_per_s": round(statistics.median(e.num_ended / e.seconds for e in usual)),
        "cost_ratio_100k_adapters": ratio("many_adapters", "usual"),
        "cost_ratio_waiting": ratio("usual", "few_waiting"),
        "policy": load.policy,
        "num_waiting": load.num_waiting,
        "max_running": load.max_running,
        "machine": describe_machine(),
    }


def _memory(load: Load) -> UnifiedMemory:
    """A pool with room for all running sequences and for a part of the adapters, all on host."""
    most_tokens = load.prompt_tokens[1] + load.output_tokens[1]
    num_pages = load.max_running * (most_tokens // _PAGE_SIZE + 1)
    num_pages += _NUM_RESIDENT_ADAPTERS * _PAGES_PER_ADAPTER
    memory = unified_memory(
        PageGeometry(_SHAPE, _PAGE_SIZE),
        SavingPolicy(PageCosts()),
        page_bytes=1,
        num_pages=num_pages,
        row_capacity=num_pages * 4,
        host_budget_pages=load.num_adapters * _PAGES_PER_ADAPTER,
    )
    for index in range(load.num_adapters):
        digest = f"a{index}"
        memory.residency.register(digest, num_pages=_PAGES_PER_ADAPTER, num_rows=_PAGES_PER_ADAPTER)
        memory.host.offer(digest, _PAGES_PER_ADAPTER, digest, ())
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default=Load.policy, help="as of `motet serve`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Load.num_steps, help="steps to time")
    parser.add_argument("--seed", type=int, default=Load.seed)
    options = parser.parse_args()
    load = Load(policy=options.policy, num_steps=options.steps, seed=options.seed)
    print(json.dumps(report(load, options.repeats)))


if __name__ == "__main__":
    main()
