"""What must hold after every step of the scheduler, whatever happens.

Owns: the rules, each stated over what can be seen from outside.
Does not know: who drives the scheduler.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from motet.core.messages import AddRequest
from motet.memory.residency import AdapterResidency
from motet.memory.unified import UnifiedMemory
from motet.scheduler.scheduler import Scheduler
from motet.scheduler.sequence import Batch, Sequence


@dataclass
class Progress:
    """A request as seen from outside the scheduler."""

    request: AddRequest
    arrival: int
    expected: list[int]
    expected_reason: str
    adapters: Collection[str] = ()  # all that have to be on the device
    output: list[int] = field(default_factory=list)
    sequence: Sequence | None = None  # known from the first batch that has it

    @property
    def is_running(self) -> bool:
        return self.sequence is not None and bool(self.sequence.pages)

    @property
    def place(self) -> tuple[int, int]:
        """In line: the least is first."""
        return self.request.priority, self.arrival


Live = Mapping[str, Progress]  # by request id


def pages_add_up(scheduler: Scheduler, memory: UnifiedMemory, live: Live) -> None:
    """Each page is free, a running sequence's own, the prefix cache's, or an adapter's."""
    scheduler.check()
    pool, prefixes, residency = memory.pool, memory.prefixes, memory.residency
    running = [p.sequence for p in live.values() if p.is_running and p.sequence]
    num_own_pages = sum(len(sequence.pages) - len(sequence.kept) for sequence in running)
    assert pool.num_owned("kv") == num_own_pages
    num_kept_pages = len({node for sequence in running for node in sequence.kept})
    assert pool.num_owned("prefix") == num_kept_pages + prefixes.num_idle_pages
    num_used = num_own_pages + pool.num_owned("prefix") + pool.num_owned("adapter")
    assert pool.num_free + num_used == pool.num_pages
    assert residency.num_idle_pages <= pool.num_owned("adapter")
    assert scheduler.num_running == len(running)
    assert scheduler.num_waiting == len(live) - len(running)


def adapters_are_there(scheduler: Scheduler, residency: AdapterResidency, live: Live) -> None:
    """No adapter in use is evicted."""
    used = {digest for p in live.values() if p.is_running for digest in p.adapters}
    named = {digest for p in live.values() if not p.is_running for digest in p.adapters}
    assert used <= set(residency.resident())
    assert scheduler.running_adapters() == used
    assert scheduler.waiting_adapters() == named
    assert all(scheduler.uses_adapter(digest) for digest in used | named)
    for digest in used | named:
        num_users = sum(p.is_running and digest in p.adapters for p in live.values())
        assert residency.num_users(digest) == num_users


def chunks_are_sound(batch: Batch, page_size: int) -> None:
    """Each sequence at most once, with something to compute and pages for its context."""
    assert batch.num_tokens == sum(chunk.num_new_tokens for chunk in batch.chunks)
    assert len({chunk.sequence for chunk in batch.chunks}) == len(batch.chunks)
    for chunk in batch.chunks:
        assert chunk.num_new_tokens > 0
        num_before = chunk.sequence.num_tokens - chunk.samples
        max_num_tokens = chunk.sequence.max_num_tokens
        is_prompt_only = chunk.sequence.sampling.max_tokens == 0
        assert chunk.end <= num_before
        assert num_before == max_num_tokens if is_prompt_only else num_before < max_num_tokens
        assert chunk.samples == (chunk.end == num_before and not is_prompt_only)
        assert chunk.end <= len(chunk.sequence.pages) * page_size


def tokens_are_lost_by_preemption_alone(
    live: Live, before: Mapping[str, tuple[int, int]], num_preemptions: int
) -> None:
    """What was computed stays, or goes with a preemption that is counted.

    Args:
        before: computed tokens and preemptions of each sequence that was running.
        num_preemptions: how many the scheduler counted.
    """
    num_preempted = 0
    for request_id, (num_computed_tokens, num_before) in before.items():
        sequence = live[request_id].sequence
        assert sequence is not None
        num_new = sequence.num_preemptions - num_before
        num_preempted += num_new
        if num_new == 0:
            assert sequence.num_computed_tokens == num_computed_tokens
        else:
            assert sequence.num_computed_tokens <= num_computed_tokens
    assert num_preemptions == num_preempted


def first_come_first_served(
    batch: Batch, was_running: Collection[str], live: Live, residency: AdapterResidency
) -> None:
    """Who is admitted overtakes those only who wait for an adapter, or have a higher number."""
    for chunk in batch.chunks:
        if chunk.sequence.request_id in was_running:
            continue
        place = live[chunk.sequence.request_id].place
        for other in live.values():
            if other.place < place and not other.is_running:
                assert not all(map(residency.is_resident, other.adapters))


def places_are_kept(
    batch: Batch, was_running: Collection[str], live: Live, residency: AdapterResidency
) -> None:
    """Who is admitted overtakes nobody who was called before and has run, whatever the policy.

    But for those who wait for an adapter.
    """
    places = {p.sequence: p.sequence.place for p in live.values() if p.sequence is not None}
    for chunk in batch.chunks:
        if chunk.sequence.request_id in was_running:
            continue
        for other in live.values():
            seq = other.sequence
            if seq is not None and not seq.pages and seq.place < places[chunk.sequence]:
                assert not all(map(residency.is_resident, other.adapters))


def lower_numbers_come_first(
    batch: Batch, was_running: Collection[str], live: Live, residency: AdapterResidency
) -> None:
    """Who is admitted overtakes nobody of a lower number, whatever the policy; likewise."""
    for chunk in batch.chunks:
        if chunk.sequence.request_id in was_running:
            continue
        priority = live[chunk.sequence.request_id].request.priority
        for other in live.values():
            if other.request.priority < priority and not other.is_running:
                assert not all(map(residency.is_resident, other.adapters))


def no_decode_waits_for_a_prefill(batch: Batch, live: Live) -> None:
    """A running decode that is left out was left out for other decodes."""
    scheduled = {chunk.sequence for chunk in batch.chunks}
    for progress in live.values():
        sequence = progress.sequence
        if sequence is None or not sequence.pages or sequence in scheduled:
            continue
        if sequence.num_unscheduled_tokens == 1:
            assert all(chunk.num_new_tokens == 1 for chunk in batch.chunks)
