"""Which sequences run next, and which adapters must come to the device for them.

Owns: the waiting queue, the running list, admission, chunked prefill, preemption.
Does not know: tensors, models, sockets. It is tested without an engine.

First come, first served. A step takes the running sequences first (a decode takes one token, a
prefill what is left of the step's token budget), then admits waiting ones while there is room.
A sequence whose adapters are still being read or copied is passed over, and so is one whose grammar
is still being compiled; one that finds no pages holds back those behind it, so that a large request
is not starved by small ones. A composition or a routed set is one unit: its sequence runs when all
its adapters are there, and they stay until it ends. When the pages of the running sequences outgrow
the pool, the last in line is preempted. What it computed stays in the prefix cache as long as
nobody needs the pages, so it comes back cheaply.

Priorities change the line and nothing else: it is by priority, a lower number first, and then by
arrival. A sequence keeps its place as long as it lives, waiting or running, so the line says who is
admitted next, who goes first in a step, who is preempted, and whose adapters may be evicted for
whom. Nobody who runs is sent back to make room for one who waits. Nothing ages either: a request
waits for as long as requests of lower numbers keep coming, and whoever gives numbers has to weigh
that.

A step may be scheduled while the one before it is in flight. Then the tokens that this one samples
are not known: a sequence that ends with such a token is computed once too often, and that result is
thrown away. Its pages are free at once, since the device does what it is given in order.
"""

import time
from bisect import insort
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter

from motet.core.messages import AddRequest, TokenLogprobs, TokenOutput
from motet.memory.members import Members, member_slots
from motet.memory.page_pool import ADAPTER, KV, PoolCorruptionError
from motet.memory.residency import Placement
from motet.memory.unified import UnifiedMemory
from motet.scheduler.lookahead import AdapterLookahead
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

# Waiting sequences, beyond those that may run at once, whose adapters are copied to the device: a
# copy takes about a step, and this many ends of sequences in one step are rare.
LOOKAHEAD_SEQUENCES = 4

_place = attrgetter("place")


@dataclass(frozen=True)
class Plan:
    """One step: the batch to compute (it may be empty), and what to start beside it.

    Attributes:
        batch: what to compute.
        reads: adapters to read from disk into host memory, by digest.
        copies: adapters to copy from host memory to the device.
    """

    batch: Batch
    reads: list[str]
    copies: list[Placement]


class Scheduler:
    """Continuous batching over one page pool.

    Args:
        memory: what sequences and adapters share.
        max_step_tokens: tokens that one step computes at most.
        max_running: sequences that run at once at most.
        keeps_prefixes: have the prefix cache keep what is computed.

    Attributes:
        pages: the sequences' pages.
        num_preemptions, num_adapter_hits, num_adapter_misses: since the start; a hit is a queued
            request whose adapters were all on the device.
    """

    def __init__(
        self,
        memory: UnifiedMemory,
        *,
        max_step_tokens: int,
        max_running: int,
        keeps_prefixes: bool = True,
    ) -> None:
        self._pool = memory.pool
        self._residency = memory.residency
        self._reclaimer = memory.reclaimer
        self._geometry = memory.geometry
        self._policy = memory.policy
        self._lookahead = AdapterLookahead(memory)
        self.pages = SequencePages(memory, max_running=max_running, keeps_prefixes=keeps_prefixes)
        self._max_step_tokens = max_step_tokens
        self._max_running = max_running
        self._waiting: list[Sequence] = []  # by place in line
        self._running: list[Sequence] = []  # by place in line
        self._num_arrived = 0
        self.num_preemptions = 0
        self.num_adapter_hits = 0
        self.num_adapter_misses = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

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
        return {digest for seq in self._waiting for digest in seq.adapters}

    def uses_adapter(self, digest: str) -> bool:
        """Whether a sequence, running or waiting, uses this adapter or set."""
        return any(digest in seq.adapters for seq in (*self._running, *self._waiting))

    def num_pages_needed(self, request: AddRequest) -> int:
        """Pages that a request takes at its longest, its adapters' included."""
        num_adapter_pages = sum(map(self._residency.num_pages, self._adapters(request)))
        return self._num_kv_pages_needed(request) + num_adapter_pages

    def fits(self, request: AddRequest) -> bool:
        """Whether a request could run if nothing else did; pinned adapters stay."""
        return self._fits(self._num_kv_pages_needed(request), self._adapters(request), ())

    def may_pin(self, digest: str) -> bool:
        """Whether an adapter or a whole set can be pinned.

        It can if half of the pool is left, and room for each of the requests there are.
        """
        adapters = self._residency.adapters(digest)
        pinned = {*self._residency.pinned(), *adapters}
        num_pinned = sum(self._residency.num_pages(each) for each in pinned)
        if 2 * num_pinned > self._pool.capacity(ADAPTER):
            return False
        return all(
            self._fits(self._geometry.num_kv_pages(seq.max_num_tokens), seq.adapters, adapters)
            for seq in (*self._running, *self._waiting)
        )

    def add(self, request: AddRequest, guide: Guide | None = None) -> None:
        """Queue a request. Its adapters must be known, and it must fit in the empty pool.

        Args:
            request: the request.
            guide: follows its grammar; None if it has none.
        """
        assert self.fits(request)
        self._policy.tick()
        seq = Sequence(
            request_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            sampling=request.sampling,
            digest=request.digest,
            tenant=request.tenant,
            arrival=self._num_arrived,
            priority=request.priority,
            queued_s=time.monotonic(),
            guide=guide,
            members=self._members(request),
            returns_routing=request.returns_routing,
        )
        for digest in seq.adapters:
            self._residency.want(digest)
        if seq.adapters and self._has_adapters(seq):
            self.num_adapter_hits += 1
        elif seq.adapters:
            self.num_adapter_misses += 1
        insort(self._waiting, seq, key=_place)
        self._num_arrived += 1

    def abort(self, request_id: str) -> bool:
        """Forget a request and free what it holds. False if there is none of that id."""
        for seq in self._running:
            if seq.request_id == request_id:
                self._end(seq)
                return True
        for seq in self._waiting:
            if seq.request_id == request_id:
                self._waiting.remove(seq)
                return True
        return False

    def abort_adapter(self, digest: str) -> list[str]:
        """Forget all waiting requests of an adapter that could not be brought in; their ids."""
        aborted = [seq.request_id for seq in self._waiting if digest in seq.adapters]
        self._waiting = [seq for seq in self._waiting if digest not in seq.adapters]
        return aborted

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
        # Each sequence may need a page, and the last in line may evict least.
        protected = self._ahead(self._running[-1])
        return self._reclaimer.num_reclaimable(KV, protected) >= len(self._running)

    def schedule(self) -> Plan:
        """The next batch, and the reads and copies to start beside it."""
        chunks: list[ScheduledChunk] = []
        self._lookahead.begin_step()
        budget = self._schedule_running(chunks)
        self._bring_in_pinned()
        self._admit(chunks, budget)
        return Plan(Batch(chunks), self._lookahead.reads, self._lookahead.copies)

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

    def _schedule_running(self, chunks: list[ScheduledChunk]) -> int:
        """Schedule running sequences: decodes, then prefills, each by place in line."""
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
            if self.pages.grow(seq, num_tokens, self._ahead(seq), self._wanted()):
                break
            self._preempt(self._running[-1])
        return bool(seq.pages)

    def _admit(self, chunks: list[ScheduledChunk], budget: int) -> None:
        """Admit waiting sequences by place in line, and bring in what the others wait for."""
        wanted = self._wanted()
        ahead: set[str] = set()  # adapters of this and earlier waiting sequences: they stay
        num_passed = 0  # sequences that stay in the queue for now
        num_kv_pages = len(self._running)  # what these, and the growth of the others, will take
        for seq in list(self._waiting):
            ahead.update(seq.adapters)
            may_run = budget > 0 and len(self._running) < self._max_running
            if may_run and self._is_ready(seq):
                if not self._start(seq, ahead, wanted):
                    return
                chunk = seq.schedule(min(budget, seq.num_unscheduled_tokens))
                chunks.append(chunk)
                budget -= chunk.num_new_tokens
                continue
            comes_next = len(self._running) + num_passed < self._max_running + LOOKAHEAD_SEQUENCES
            if not (may_run or comes_next or self._lookahead.may_read):
                return
            num_kv_pages += self._geometry.num_kv_pages(seq.num_tokens)
            if not self._has_adapters(seq):
                # The first in line leaves nothing for others: they are behind it.
                num_left = num_kv_pages if num_passed else 0
                if not self._lookahead.bring_in(
                    seq.adapters,
                    num_left,
                    ahead,
                    wanted,
                    may_copy=comes_next,
                    may_move=num_passed == 0,
                ):
                    return
            num_passed += 1

    def _is_ready(self, seq: Sequence) -> bool:
        return self._has_adapters(seq) and (seq.guide is None or seq.guide.is_ready)

    def _has_adapters(self, seq: Sequence) -> bool:
        return all(map(self._residency.is_resident, seq.adapters))

    def _start(self, seq: Sequence, ahead: set[str], wanted: list[str]) -> bool:
        """Give a waiting sequence its pages and have it run. False if there is no room."""
        # One that was preempted returns when the others have room to grow again.
        num_spare = len(self._running) if seq.num_preemptions else 0
        if not self.pages.start(seq, num_spare, ahead, wanted):
            return False
        self._take_adapters(seq)
        if seq.queue_s is None:
            seq.queue_s = time.monotonic() - seq.queued_s
        self._waiting.remove(seq)
        insort(self._running, seq, key=_place)
        return True

    def _take_adapters(self, seq: Sequence) -> None:
        """Have all that it uses stay, and note where that is."""
        for digest in seq.adapters:
            self._residency.acquire(digest)
        slots = {digest: self._residency.slot(digest) for digest in seq.adapters}
        if seq.members is None:
            seq.slot = next(iter(slots.values()), None)
        else:
            seq.member_slots = member_slots(seq.members, slots)
            seq.slot = next((slot for slot, _ in seq.member_slots.fixed), None)

    def _bring_in_pinned(self) -> None:
        """Start what brings pinned adapters to the device that are not there."""
        for digest in self._residency.pinned():
            if not self._residency.is_resident(digest):
                self._lookahead.bring_in([digest], 0, {digest}, self._wanted(), may_copy=True)

    def _ahead(self, seq: Sequence) -> set[str]:
        """Adapters that it may not evict: its own, and those that sequences before it wait with."""
        place = seq.place
        before = takewhile(lambda other: other.place <= place, self._waiting)
        return {digest for other in before for digest in other.adapters}

    def _wanted(self) -> list[str]:
        """Adapters of the sequences that come next, the soonest first."""
        window = self._waiting[: self._max_running + LOOKAHEAD_SEQUENCES]
        return list(dict.fromkeys(digest for seq in window for digest in seq.adapters))

    def _members(self, request: AddRequest) -> Members | None:
        """What its composition or routed set consists of; None if it has neither."""
        if request.parts:
            return Members(tuple(request.parts))
        return None if request.digest is None else self._residency.members(request.digest)

    def _adapters(self, request: AddRequest) -> SequenceOf[str]:
        """All that it needs on the device, each once."""
        if request.parts:
            return [part.digest for part in request.parts]
        return () if request.digest is None else self._residency.adapters(request.digest)

    def _num_kv_pages_needed(self, request: AddRequest) -> int:
        num_tokens = len(request.prompt_token_ids) + request.sampling.max_tokens
        return self._geometry.num_kv_pages(num_tokens)

    def _fits(self, num_kv_pages: int, adapters: SequenceOf[str], pinned: SequenceOf[str]) -> bool:
        """Whether this is there besides what is pinned, with `pinned` in addition."""
        kept = {*self._residency.pinned(), *pinned, *adapters}
        num_adapter_pages = sum(self._residency.num_pages(each) for each in kept)
        if self._pool.is_partitioned:
            return num_kv_pages <= self._pool.capacity(
                KV
            ) and num_adapter_pages <= self._pool.capacity(ADAPTER)
        return num_kv_pages + num_adapter_pages <= self._pool.num_pages

    def _end(self, seq: Sequence, *, is_good: bool = True) -> None:
        seq.is_over = True
        self._stop_running(seq, is_good=is_good)

    def _stop_running(self, seq: Sequence, *, is_good: bool = True) -> None:
        self._running.remove(seq)
        self.pages.free(seq, is_good=is_good)
        for digest in seq.adapters:
            self._residency.release(digest)
        seq.slot = seq.member_slots = None

    def _preempt(self, seq: Sequence) -> None:
        assert seq.num_scheduled_tokens == seq.num_computed_tokens, "a step in flight computes it"
        self._stop_running(seq)
        seq.num_preemptions += 1
        insort(self._waiting, seq, key=_place)
        self.num_preemptions += 1

    def check(self) -> None:
        """Verify that the pool's pages are where the sequences and the cache say.

        Raises:
            PoolCorruptionError: pages are lost, or held twice.
        """
        self._pool.check()
        self.pages.check(self._running)
        if any(seq.pages for seq in self._waiting):
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
