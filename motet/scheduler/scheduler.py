"""Which sequences run next, and which adapters must come to the device for them.

Owns: the waiting queue, the running list, admission, chunked prefill, preemption.
Does not know: tensors, models, sockets. It is tested without an engine.

A step takes the running sequences first (a decode takes one token, a prefill what is left of the
step's token budget), then admits waiting ones while there is room, in the order of the line
(`line.py`), which a policy decides (`policy.py`). A sequence whose adapters are still being read or
copied is passed over, and so is one whose grammar is still being compiled; one that finds no pages
holds back those behind it, so that a large request is not starved by small ones. A composition or a
routed set is one unit: its sequence runs when all its adapters are there, and they stay until it
ends. When the pages of the running sequences outgrow the pool, the last in line is preempted. What
it computed stays in the prefix cache as long as nobody needs the pages, so it comes back cheaply.

Priorities come before the policy: lower numbers are called first. A sequence keeps the place it was
called to as long as it lives, waiting or running, so the line says who is admitted next, who goes
first in a step, who is preempted, and whose adapters may be evicted for whom. Nobody who runs is
sent back to make room for one who waits, unless the policy says that its place is owed to the one
and the other's sender has more than it is owed (`Policy.is_owed`). No priority ages: a request
waits for as long as requests of lower numbers keep coming, and whoever gives numbers has to weigh
that.

A step may be scheduled while the one before it is in flight. Then the tokens that this one samples
are not known: a sequence that ends with such a token is computed once too often, and that result is
thrown away. Its pages are free at once, since the device does what it is given in order.
"""

import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from motet.core.messages import AddRequest, TokenLogprobs, TokenOutput
from motet.memory.members import Members
from motet.memory.page_pool import KV, PoolCorruptionError
from motet.memory.residency import Placement
from motet.memory.unified import UnifiedMemory
from motet.scheduler.admission import Admission
from motet.scheduler.capacity import Capacity
from motet.scheduler.line import WaitingLine
from motet.scheduler.lookahead import AdapterLookahead
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policy import PolicyFactory, QueuedRequest, Refusal
from motet.scheduler.sequence import (
    NO_LOGPROBS,
    NO_ROUTING,
    Batch,
    BatchLogprobs,
    Guide,
    Routing,
    ScheduledChunk,
    Sequence,
)
from motet.scheduler.sequence_pages import SequencePages


@dataclass(frozen=True)
class Plan:
    """One step: the batch to compute (it may be empty), and what to start beside it.

    Attributes:
        batch: what to compute.
        reads: adapters to read from disk into host memory, by digest.
        copies: adapters to copy from host memory to the device.
        refusals: requests that have been forgotten, for the policy gave them up.
    """

    batch: Batch
    reads: list[str]
    copies: list[Placement]
    refusals: list[Refusal] = field(default_factory=list)


class Scheduler:
    """Continuous batching over one page pool.

    Args:
        memory: what sequences and adapters share.
        max_step_tokens: tokens that one step computes at most.
        max_running: sequences that run at once at most.
        keeps_prefixes: have the prefix cache keep what is computed.
        make_policy: makes the policy of each priority.
        clock: the time [s]; it never goes back.

    Attributes:
        pages: the sequences' pages.
        capacity: what could ever run.
        num_preemptions, num_adapter_hits, num_adapter_misses: since the start; a hit is a queued
            request whose adapters were all on the device.
        num_refusals: requests that the policy gave up, since the start.
    """

    def __init__(
        self,
        memory: UnifiedMemory,
        *,
        max_step_tokens: int,
        max_running: int,
        keeps_prefixes: bool = True,
        make_policy: PolicyFactory = Fcfs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = memory.pool
        self._residency = memory.residency
        self._reclaimer = memory.reclaimer
        self._geometry = memory.geometry
        self._eviction = memory.policy
        self._clock = clock
        self._max_step_tokens = max_step_tokens
        self._lookahead = AdapterLookahead(memory)
        self._line = WaitingLine(make_policy)
        self._running: list[Sequence] = []  # by place in line
        self._live: dict[str, Sequence] = {}  # by request id: all that wait or run
        self._num_users: Counter[str] = Counter()  # by digest: those of them that use it
        self.pages = SequencePages(memory, max_running=max_running, keeps_prefixes=keeps_prefixes)
        self.capacity = Capacity(memory)
        self._admission = Admission(
            memory, self.pages, self._line, self._running, self._lookahead, max_running, clock
        )
        self._num_arrived = 0
        self.num_preemptions = 0
        self.num_adapter_hits = 0
        self.num_adapter_misses = 0
        self.num_refusals = 0

    @property
    def num_waiting(self) -> int:
        return len(self._line)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def next_refusal_s(self) -> float | None:
        """When `schedule` may have a refusal to tell though nothing else happens.

        On the scheduler's clock; None if it will not.
        """
        return self._line.next_refusal_s()

    @property
    def kv_fill(self) -> float:
        """Computed tokens of the running sequences over the room in their pages; 1 without any."""
        room = sum(len(seq.pages) for seq in self._running) * self._geometry.page_size
        return sum(seq.num_computed_tokens for seq in self._running) / room if room else 1.0

    def running_adapters(self) -> set[str]:
        """Digests that running sequences use, members of compositions and sets among them."""
        return {digest for seq in self._running for digest in seq.adapters}

    def waiting_adapters(self) -> set[str]:
        """Digests that waiting sequences will use, likewise."""
        return {digest for seq in self._line for digest in seq.adapters}

    def uses_adapter(self, digest: str) -> bool:
        """Whether a sequence, running or waiting, uses this adapter or set."""
        return self._num_users[digest] > 0

    def may_pin(self, digest: str) -> bool:
        """See `Capacity.may_pin`."""
        return self.capacity.may_pin(digest, self._live.values())

    def add(self, request: AddRequest, guide: Guide | None = None) -> None:
        """Queue a request. Its adapters must be known, and it must fit in the empty pool.

        Args:
            request: the request.
            guide: follows its grammar; None if it has none.
        """
        assert self.capacity.fits(request)
        self._eviction.tick()
        adapters = tuple(self.capacity.adapters(request))
        num_adapter_pages = sum(map(self._residency.num_pages, adapters))
        seq = Sequence(
            request_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            sampling=request.sampling,
            digest=request.digest,
            prefix_scope=request.prefix_scope,
            queued=QueuedRequest(
                request_id=request.request_id,
                arrival=self._num_arrived,
                queued_s=self._clock(),
                priority=request.priority,
                tenant=request.tenant,
                weight=request.weight,
                adapters=adapters,
                num_adapter_tokens=num_adapter_pages * self._geometry.page_size,
                num_prompt_tokens=len(request.prompt_token_ids),
                max_output_tokens=request.sampling.max_tokens,
            ),
            guide=guide,
            members=self._members(request),
            returns_routing=request.returns_routing,
        )
        for digest in adapters:
            self._residency.want(digest)
        if adapters and self._admission.has_adapters(seq):
            self.num_adapter_hits += 1
        elif adapters:
            self.num_adapter_misses += 1
        self._num_arrived += 1
        self._live[seq.request_id] = seq
        self._num_users.update(adapters)
        self._line.add(seq)

    def abort(self, request_id: str) -> bool:
        """Forget a request and free what it holds. False if there is none of that id."""
        seq = self._live.get(request_id)
        if seq is None:
            return False
        if seq.row is None:
            self._leave_line(seq)
        else:
            self._end(seq)
        return True

    def abort_adapter(self, digest: str) -> list[str]:
        """Forget all waiting requests of an adapter that could not be brought in; their ids."""
        aborted = [seq for seq in self._line if digest in seq.adapters]
        for seq in aborted:
            self._leave_line(seq)
        return [seq.request_id for seq in aborted]

    @property
    def may_run_ahead(self) -> bool:
        """Whether `schedule` may be called while the step before is in flight.

        Not so if a sequence might have to be preempted, since its last token is not known; nor
        with penalties or a grammar, which have to know every token before the one that is sampled.
        """
        if not self._running:
            return True
        if any(seq.sampling.has_penalties or seq.guide is not None for seq in self._running):
            return False
        if self._displaceable():
            return False
        # Each sequence may need a page, and the last in line may evict least.
        protected = self._line.adapters_ahead(self._running[-1])
        return self._reclaimer.num_reclaimable(KV, protected) >= len(self._running)

    def schedule(self) -> Plan:
        """The next batch, and the reads and copies to start beside it."""
        chunks: list[ScheduledChunk] = []
        self._lookahead.begin_step()
        self._admission.begin_step()
        refusals = self._refuse()
        self._displace()
        prefills, budget = self._schedule_decodes(chunks)
        owed = [seq for seq in prefills if seq.is_owed]
        others = [seq for seq in prefills if not seq.is_owed]
        budget = self._schedule_prefills(owed, chunks, budget)
        budget = self._admission.admit_owed(chunks, budget)
        budget = self._schedule_prefills(others, chunks, budget)
        self._admission.bring_in_pinned()
        self._admission.admit(chunks, budget)
        return Plan(Batch(chunks), self._lookahead.reads, self._lookahead.copies, refusals)

    def commit(
        self,
        batch: Batch,
        tokens: SequenceOf[int | None],
        logprobs: BatchLogprobs = NO_LOGPROBS,
        routing: Routing = NO_ROUTING,
    ) -> list[TokenOutput]:
        """Take what a batch gave: a token for each chunk that samples, in order, and the rest.

        Batches are committed in the order in which they were scheduled. A token of None ends its
        sequence with the finish reason "error", and so does an entry in `logprobs.not_finite`: its
        logits were not finite, and its KV is not kept. A sequence whose guide fails ends with
        "grammar_error". What was computed of sequences that have ended meanwhile is thrown away.
        """
        outputs = []
        now_s = self._clock()
        sampled = iter(tokens)
        for chunk in batch.chunks:
            seq = chunk.sequence
            token = next(sampled) if chunk.samples else None
            if seq.is_over:
                continue
            failure = "error" if seq in logprobs.not_finite else None
            if failure is None and chunk.samples:
                failure = _guide(seq, token)
            if failure is not None:
                self._end(seq, is_good=failure != "error")
                queue_s = seq.queue_s or 0.0
                outputs.append(TokenOutput(seq.request_id, [], failure, queue_s=queue_s))
                continue
            seq.num_computed_tokens = chunk.end
            self.pages.keep_computed(seq)
            if seq in logprobs.prompts:
                seq.keep_prompt_logprobs(chunk.start, logprobs.prompts[seq])
            if token is not None:
                self._line.count_output(seq, 1, now_s)
                outputs.append(self._append(seq, token, logprobs, routing))
            elif chunk.ends_prompt_only:
                outputs.append(self._end_prompt_only(seq))
        return outputs

    def _append(
        self, seq: Sequence, token: int, logprobs: BatchLogprobs, routing: Routing
    ) -> TokenOutput:
        seq.output_token_ids.append(token)
        reason = seq.finish_reason()
        if reason is not None:
            self._end(seq)
        weights = [routing[seq]] if seq in routing else None
        return _output(seq, [token], reason, logprobs.tokens.get(seq), weights)

    def _end_prompt_only(self, seq: Sequence) -> TokenOutput:
        self._end(seq)
        return _output(seq, [], "length", None)

    def _schedule_decodes(self, chunks: list[ScheduledChunk]) -> tuple[list[Sequence], int]:
        """Schedule running decodes by place in line.

        Returns:
            The running prefills by place in line, and the tokens that the step has left.
        """
        budget = self._max_step_tokens
        page_size = self._geometry.page_size
        prefills = []
        for seq in list(self._running):  # the last may have to go
            num_unscheduled = seq.num_unscheduled_tokens
            if num_unscheduled > 1:
                prefills.append(seq)
                continue
            has_room = seq.num_scheduled_tokens < len(seq.pages) * page_size
            if num_unscheduled == 1 and budget > 0 and (has_room or self._keep(seq)):
                chunks.append(seq.schedule(1))
                budget -= 1
        return prefills, budget

    def _schedule_prefills(
        self, prefills: list[Sequence], chunks: list[ScheduledChunk], budget: int
    ) -> int:
        """Schedule running prefills, of which some may have been preempted meanwhile."""
        for seq in prefills:
            if budget > 0 and seq.pages:
                chunk = seq.schedule(min(budget, seq.num_unscheduled_tokens))
                chunks.append(chunk)
                budget -= chunk.num_new_tokens
        return budget

    def _keep(self, seq: Sequence) -> bool:
        """Grow a decode to its next token; preempt the last in line while pages are short.

        Returns False if the sequence itself was preempted. One that a step has already scheduled
        never is: a prefill has all its pages from admission, so only decodes grow, in their order.
        """
        num_tokens = seq.num_scheduled_tokens + 1
        while seq.pages and self.pages.num_missing(seq, num_tokens) > 0:
            if self.pages.grow(
                seq, num_tokens, self._line.adapters_ahead(seq), self._admission.wanted
            ):
                break
            self._preempt(self._running[-1])
        return bool(seq.pages)

    def _displace(self) -> None:
        """Send running sequences back, one after another, for one that is owed its turn."""
        self._line.promote()
        while candidates := self._displaceable():
            seq = next((seq for seq in candidates if not seq.is_in_flight), None)
            if seq is None:
                return
            self._preempt(seq)

    def _displaceable(self) -> list[Sequence]:
        """Whom the first in line may have sent back to get its room, the last in line first.

        Nobody, if it is not owed its turn, or has room.
        """
        owed = self._line.owed()
        if owed is None or self._admission.has_room(owed):
            return []
        return [
            seq
            for seq in reversed(self._running)
            if seq.queued.priority >= owed.queued.priority and self._line.has_excess(seq)
        ]

    def _refuse(self) -> list[Refusal]:
        """Forget what the policy gives up."""
        refusals = []
        for seq, refusal in self._line.refusals(self._clock()):
            self._leave_line(seq)
            refusals.append(refusal)
        self.num_refusals += len(refusals)
        return refusals

    def _members(self, request: AddRequest) -> Members | None:
        """What its composition or routed set consists of; None if it has neither."""
        if request.parts:
            return Members(tuple(request.parts))
        return None if request.digest is None else self._residency.members(request.digest)

    def _end(self, seq: Sequence, *, is_good: bool = True) -> None:
        self._stop_running(seq, is_good=is_good)
        self._line.end(seq)
        self._forget(seq)

    def _leave_line(self, seq: Sequence) -> None:
        self._line.remove(seq)
        self._forget(seq)

    def _forget(self, seq: Sequence) -> None:
        seq.is_over = True
        del self._live[seq.request_id]
        self._num_users.subtract(seq.adapters)
        for digest in seq.adapters:
            if self._num_users[digest] == 0:
                del self._num_users[digest]

    def _stop_running(self, seq: Sequence, *, is_good: bool = True) -> None:
        self._running.remove(seq)
        self.pages.free(seq, is_good=is_good)
        for digest in seq.adapters:
            self._residency.release(digest)
        seq.slot = seq.member_slots = None

    def _preempt(self, seq: Sequence) -> None:
        assert not seq.is_in_flight
        self._stop_running(seq)
        seq.num_preemptions += 1
        self._line.put_back(seq)
        self.num_preemptions += 1

    def check(self) -> None:
        """Verify that the pool's pages are where the sequences and the cache say.

        Raises:
            PoolCorruptionError: pages are lost, or held twice.
        """
        self._pool.check()
        self.pages.check(self._running)
        if any(seq.pages for seq in self._line):
            raise PoolCorruptionError("a waiting sequence holds pages")


def _output(
    seq: Sequence,
    token_ids: list[int],
    finish_reason: str | None,
    logprobs: list[TokenLogprobs] | None,
    routing: list[list[float]] | None = None,
) -> TokenOutput:
    """What is told of a sequence after a step. The first time, its prompt's logprobs go with it."""
    prompt_logprobs, seq.prompt_logprobs = seq.prompt_logprobs, None
    return TokenOutput(
        seq.request_id,
        token_ids,
        finish_reason,
        seq.num_cached_tokens or 0,
        logprobs,
        prompt_logprobs,
        seq.queue_s or 0.0,
        routing,
    )


def _guide(seq: Sequence, token: int | None) -> str | None:
    """Have the guide follow what was sampled; why the sequence ends with an error, if it does."""
    if seq.guide is not None:
        if token is not None:
            seq.guide.accept(token)
        if seq.guide.error is not None:
            return "grammar_error"
    return "error" if token is None else None
