"""The loop: requests arrive, steps are scheduled, adapters come, and the time goes on by itself.

Owns: virtual time, and the order of events. It stands for `engine/engine.py` and
`engine/adapters.py`.
Does not know: what anything costs (`cost_model.py`), nor who is served first (the real scheduler).

As in the engine, messages and the ends of transfers are taken note of between two steps. A step
ends before the next one is scheduled; an engine on a GPU schedules the next one meanwhile, which is
worth the time of the scheduler's Python, and that is in the device's constants.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.simulator.answers import Clients
from benchmarks.simulator.cost_model import CostModel, work_of
from benchmarks.simulator.models import adapter_elems
from benchmarks.simulator.prompts import OUTPUT_TOKEN, StreamPrompts
from benchmarks.simulator.setup import Setup
from benchmarks.simulator.transfers import Transfer, Transfers
from motet.bench.record import RequestRecord, Sample
from motet.bench.workload import Workload, WorkRequest
from motet.core.messages import AddRequest
from motet.core.sampling import SamplingParams
from motet.memory.eviction import Kind, PageCosts
from motet.memory.page_pool import ADAPTER, KV, PREFIX
from motet.memory.unified import UnifiedMemory
from motet.scheduler.scheduler import Plan, Scheduler
from motet.scheduler.sequence import Batch

_SAMPLE_EVERY_S = 1.0
# A step tells what a token costs if it has at least this many for each of its sequences, as in
# `engine/engine.py`.
_PREFILL_TOKENS_PER_SEQUENCE = 8


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a workload.

    Attributes:
        records: of all requests, in the order of the workload.
        samples: of the server, about one a second.
        num_steps, num_preemptions, num_reads, num_copies: of the whole run.
        num_scheduled: sequences that the scheduler has given to steps, summed over steps.
        simulated_s: until the last request ended.
        took_s: for real.
    """

    records: Sequence[RequestRecord]
    samples: Sequence[Sample]
    num_steps: int
    num_preemptions: int
    num_reads: int
    num_copies: int
    num_scheduled: int
    simulated_s: float
    took_s: float


def simulate(workload: Workload, setup: Setup, *, num_unused_adapters: int = 0) -> Outcome:
    """Serve a workload in virtual time.

    Args:
        workload: what is asked for.
        setup: the server.
        num_unused_adapters: that the server knows besides those that are asked for.

    Raises:
        RuntimeError: the scheduler leaves requests waiting, and nothing is to come.
        PoolCorruptionError: pages were lost.
    """
    told = workload.parameters.get("ranks", {})
    ranks = {digest: told.get(digest, setup.default_rank) for digest in workload.adapters}
    ranks |= {f"unused-{index}": setup.default_rank for index in range(num_unused_adapters)}
    return _Simulation(workload, setup, ranks).run()


class _Simulation:
    def __init__(self, workload: Workload, setup: Setup, ranks: Mapping[str, int]) -> None:
        self._now_s = 0.0
        self._setup = setup
        self._costs = PageCosts()
        self._memory = setup.make_memory(ranks, self._costs)
        self._scheduler = Scheduler(
            self._memory,
            max_step_tokens=setup.max_step_tokens,
            max_running=setup.max_running,
            keeps_prefixes=setup.keeps_prefixes,
            make_policy=setup.policy(),
            clock=lambda: self._now_s,
        )
        self._model = CostModel(setup.shape, setup.elem_bytes, setup.device)
        self._elems = {digest: adapter_elems(setup.shape, rank) for digest, rank in ranks.items()}
        self._clients = Clients(workload.requests)
        self._prompts = StreamPrompts()
        self._transfers = Transfers(setup.num_loader_threads)
        self._samples: list[Sample] = []
        self._merged: str | None = None
        self._num_steps = self._num_scheduled = self._num_reads = 0

    def run(self) -> Outcome:
        """Until nobody waits and nobody is to come."""
        started_s = time.perf_counter()
        while self._clients.num_live or self._clients.next_arrival_s is not None:
            self._take_arrivals()
            self._take_transfers()
            plan = self._scheduler.schedule()
            self._start_transfers(plan)
            self._refuse(plan)
            if plan.batch.chunks:
                self._step(plan.batch)
            elif not plan.refusals:
                self._wait()
            self._sample()
        self._scheduler.check()
        return Outcome(
            records=self._clients.records,
            samples=self._samples,
            num_steps=self._num_steps,
            num_preemptions=self._scheduler.num_preemptions,
            num_reads=self._num_reads,
            num_copies=self._memory.residency.num_loads,
            num_scheduled=self._num_scheduled,
            simulated_s=self._now_s,
            took_s=time.perf_counter() - started_s,
        )

    def _take_arrivals(self) -> None:
        for request in self._clients.take_arrivals(self._now_s):
            message = self._message(request)
            if self._scheduler.capacity.fits(message):
                self._scheduler.add(message)
            else:
                self._clients.fail(message.request_id, self._now_s, "pool_too_small")

    def _message(self, request: WorkRequest) -> AddRequest:
        return AddRequest(
            request_id=str(request.index),
            prompt_token_ids=self._prompts.token_ids(request),
            sampling=SamplingParams(max_tokens=request.num_output_tokens, temperature=0.0),
            digest=request.adapter,
            prefix_scope=request.tenant,
            tenant=request.tenant,
        )

    def _take_transfers(self) -> None:
        for transfer in self._transfers.take_ended(self._now_s):
            digest = transfer.digest
            if transfer.kind == "read":
                self._memory.host.finish_read(digest, digest)
            else:
                self._finish_copy(transfer)

    def _finish_copy(self, transfer: Transfer) -> None:
        num_pages = self._memory.residency.num_pages(transfer.digest)
        self._costs.observe(Kind.ADAPTER, transfer.took_s, num_pages)
        self._memory.host.let_go(transfer.digest)
        self._memory.residency.finish_load(transfer.digest)

    def _start_transfers(self, plan: Plan) -> None:
        for digest in plan.reads:
            read_s = self._model.read_s(self._num_bytes(digest))
            self._transfers.begin("read", digest, self._now_s, read_s)
            self._num_reads += 1
        for placement in plan.copies:
            copy_s = self._model.copy_s(self._num_bytes(placement.digest))
            self._transfers.begin("copy", placement.digest, self._now_s, copy_s)

    def _refuse(self, plan: Plan) -> None:
        for refusal in plan.refusals:
            self._clients.fail(
                refusal.request.request_id, self._now_s, "overloaded", refusal.retry_after_s
            )

    def _step(self, batch: Batch) -> None:
        step_s = self._step_s(batch)
        self._now_s += step_s
        self._num_steps += 1
        self._num_scheduled += len(batch.chunks)
        if batch.num_tokens >= _PREFILL_TOKENS_PER_SEQUENCE * len(batch.chunks):
            num_pages = batch.num_tokens / self._memory.geometry.page_size
            self._costs.observe(Kind.PREFIX, step_s, num_pages)
        tokens = [OUTPUT_TOKEN for chunk in batch.chunks if chunk.samples]
        for output in self._scheduler.commit(batch, tokens):
            self._clients.take_output(output, self._now_s)

    def _step_s(self, batch: Batch) -> float:
        if self._setup.merges:
            return self._swap_s(batch) + self._model.step_s(work_of(batch, lambda _: 0))
        return self._model.step_s(work_of(batch, self._elems.__getitem__))

    def _swap_s(self, batch: Batch) -> float:
        """Have the weights be those of the batch's one adapter, or the base model's."""
        used = {digest for chunk in batch.chunks for digest in chunk.sequence.adapters}
        assert len(used) <= 1, "the policy mixes adapters, but only one can be merged"
        old, self._merged = self._merged, next(iter(used), None)
        if old == self._merged:
            return 0.0
        old_elems, new_elems = (self._elems[each] if each else 0 for each in (old, self._merged))
        return self._model.swap_s(old_elems, new_elems)

    def _wait(self) -> None:
        """Let the time go on to whatever comes next."""
        nexts = [
            self._clients.next_arrival_s,
            self._transfers.next_end_s,
            self._scheduler.next_refusal_s,
        ]
        to_come = [at_s for at_s in nexts if at_s is not None]
        if not to_come and self._clients.num_live:
            raise RuntimeError(
                f"{self._scheduler.num_waiting} requests wait at {self._now_s:.3f} s, and nothing "
                "is to come: the scheduler will never serve them"
            )
        if to_come:
            self._now_s = max(self._now_s, min(to_come))

    def _sample(self) -> None:
        if self._samples and self._now_s < self._samples[-1].at_s + _SAMPLE_EVERY_S:
            return
        self._samples.append(_sample(self._now_s, self._scheduler, self._memory))

    def _num_bytes(self, digest: str) -> int:
        return self._elems[digest] * self._setup.elem_bytes


def _sample(at_s: float, scheduler: Scheduler, memory: UnifiedMemory) -> Sample:
    pool, residency, prefixes = memory.pool, memory.residency, memory.prefixes
    num_prefix_used = pool.num_owned(PREFIX) - prefixes.num_idle_pages
    num_cached = prefixes.num_idle_pages + residency.num_idle_pages
    return Sample(
        at_s=at_s,
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        num_resident_adapters=len(residency.resident()),
        kv_share=(pool.num_owned(KV) + num_prefix_used) / pool.num_pages,
        adapter_share=(pool.num_owned(ADAPTER) - residency.num_idle_pages) / pool.num_pages,
        cached_share=num_cached / pool.num_pages,
        free_share=pool.num_free / pool.num_pages,
    )
