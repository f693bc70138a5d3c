"""Are 2000 adapters served as fast as five? (Table 3 of S-LoRA.)

Owns: the requests of a cell, the throughput of each, and the floor under its ratio to the first.

Requests are S-LoRA's: adapters evenly popular, lengths as in its traces, in the order of its
generator. But they do not come at given times: as many as the plan says are in the engine at all
times, so that it is busy however fast it is, and a cell takes seconds. The first seconds of a cell
do not count. Disks and HTTP have no part in it.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import cycle

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.engine_lab import EngineLab
from benchmarks.gpu.lora_pool import Ranks
from benchmarks.gpu.model import Model
from benchmarks.gpu.options import Variant, make_lab
from benchmarks.gpu.parts import Case
from benchmarks.gpu.plan import AdapterKind, TracePlan
from benchmarks.gpu.plans import SETTINGS
from benchmarks.gpu.results import Figure
from motet.bench.trace import TraceRequest, TraceSpec, draw_trace
from motet.core.shape import ModelShape

_NUM_DRAWN = 4096  # requests, which then come again with other prompts


@dataclass(frozen=True)
class _Cell:
    """What one run came to while it was measured.

    Attributes:
        adapter_bytes: of the distinct adapters of each step, summed over the steps.
        num_loads: copies of adapters to the device.
    """

    seconds: float
    num_tokens: int
    num_requests: int
    num_steps: int
    adapter_bytes: int
    num_loads: int

    @property
    def s_per_token(self) -> float:
        return self.seconds / self.num_tokens

    @property
    def bytes_per_token(self) -> float:
        return self.adapter_bytes / self.num_tokens


def trace_cases(bench: Bench, model: Model) -> Iterator[Case]:
    """Each setting from the fewest adapters to the most."""
    pool_bytes = bench.plan.engine.pool_memory_bytes
    variant = Variant("default")
    with closing(make_lab(bench.plan, model.decoder, variant, pool_bytes, bench.seed)) as lab:
        for setting, kind in SETTINGS.items():
            cells: dict[int, _Cell] = {}
            for num_adapters in bench.plan.trace.num_adapters:
                name = f"throughput, {setting}, n = {num_adapters}"
                yield Case(name, partial(_run, bench, lab, name, kind, num_adapters, cells))


def _run(
    bench: Bench,
    lab: EngineLab,
    name: str,
    kind: AdapterKind,
    num_adapters: int,
    cells: dict[int, _Cell],
) -> list[Figure]:
    """Fill one cell, and hold it against that of the fewest adapters."""
    plan, shape = bench.plan.trace, bench.plan.config.shape
    digests = []
    for i in range(num_adapters):
        rank = kind.ranks[i % len(kind.ranks)]
        digests.append(f"{name.rpartition(',')[0]}, rank {rank}, {i}")
        lab.add_adapter(digests[-1], _ranks(shape, kind, rank))
    cell = cells[num_adapters] = _play(lab, plan, _requests(plan, num_adapters), digests)
    few = cells[plan.num_adapters[0]]
    extra_s = max(0.0, bench.floor_s(cell.bytes_per_token - few.bytes_per_token))
    figure = Figure(
        name=f"{name} over n = {plan.num_adapters[0]}",
        value=few.s_per_token / cell.s_per_token,
        floor=few.s_per_token / (few.s_per_token + extra_s),
        details=_details(cell),
    )
    return [figure]


def _ranks(shape: ModelShape, kind: AdapterKind, rank: int) -> Ranks:
    return {(layer, module): rank for layer in range(shape.num_layers) for module in kind.modules}


def _requests(plan: TracePlan, num_adapters: int) -> Sequence[TraceRequest]:
    spec = TraceSpec(
        num_adapters=num_adapters,
        rate_per_s=1.0,
        duration_s=_NUM_DRAWN,
        prompt_tokens=plan.tokens,
        output_tokens=plan.tokens,
    )
    return draw_trace(spec)


def _play(
    lab: EngineLab, plan: TracePlan, requests: Sequence[TraceRequest], digests: Sequence[str]
) -> _Cell:
    """Keep the engine full for the plan's time."""
    source = cycle(requests)
    outstanding: set[str] = set()

    def run_for(seconds: float) -> _Cell:
        return _run_for(seconds, lab, plan.num_outstanding, source, digests, outstanding)

    run_for(plan.warm_up_s)
    cell = run_for(plan.measured_s)
    lab.abort(sorted(outstanding))
    return cell


def _run_for(
    seconds: float,
    lab: EngineLab,
    num_outstanding: int,
    source: Iterator[TraceRequest],
    digests: Sequence[str],
    outstanding: set[str],
) -> _Cell:
    """Step for this long, and in any case until there is a token."""
    num_tokens, num_loads = lab.total_tokens, lab.num_loads
    num_steps = num_requests = adapter_bytes = 0
    start_s = time.perf_counter()
    while time.perf_counter() < start_s + seconds or lab.total_tokens == num_tokens:
        while len(outstanding) < num_outstanding:
            outstanding.add(_add(lab, next(source), digests))
        lab.step()
        finished = lab.take_finished()
        outstanding.difference_update(finished)
        num_requests += len(finished)
        num_steps += 1
        adapter_bytes += lab.running_adapter_bytes()
    return _Cell(
        seconds=time.perf_counter() - start_s,
        num_tokens=lab.total_tokens - num_tokens,
        num_requests=num_requests,
        num_steps=num_steps,
        adapter_bytes=adapter_bytes,
        num_loads=lab.num_loads - num_loads,
    )


def _add(lab: EngineLab, request: TraceRequest, digests: Sequence[str]) -> str:
    digest = digests[request.adapter_index]
    return lab.add_request(request.num_prompt_tokens, request.num_output_tokens, digest)


def _details(cell: _Cell) -> Mapping[str, float]:
    return {
        "requests_per_s": round(cell.num_requests / cell.seconds, 3),
        "output_tokens_per_s": round(cell.num_tokens / cell.seconds, 1),
        "num_steps": cell.num_steps,
        "loads_per_s": round(cell.num_loads / cell.seconds, 2),
        "adapter_bytes_per_token": round(cell.bytes_per_token),
    }
