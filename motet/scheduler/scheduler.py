"""Which sequences run next, and which adapters must come to the device for them.

Owns: the waiting queue, the running list, admission, chunked prefill, preemption.
Does not know: tensors, models, sockets. It is tested without an engine.

First come, first served. A step takes the running sequences first (a decode takes one token, a
prefill what is left of the step's token budget), then admits waiting ones while there is room.
A sequence whose adapter is still being copied is passed over; one that finds no pages holds back
those behind it, so that a large request is not starved by small ones. When the pages of the
running sequences outgrow the pool, the youngest is preempted: its pages are freed and its tokens
are computed again when it returns.
"""

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from itertools import takewhile

from motet.core.messages import AddRequest, TokenOutput
from motet.memory.geometry import PageGeometry
from motet.memory.page_pool import PagePool, PoolCorruptionError
from motet.memory.residency import AdapterResidency, Placement
from motet.scheduler.sequence import Batch, ScheduledChunk, Sequence


class Scheduler:
    """Continuous batching over one page pool.

    Args:
        pool: whose pages sequences and adapters share.
        residency: the adapters on the device.
        geometry: page sizes.
        max_step_tokens: tokens that one step computes at most.
        max_running: sequences that run at once at most.
    """

    def __init__(
        self,
        pool: PagePool,
        residency: AdapterResidency,
        geometry: PageGeometry,
        *,
        max_step_tokens: int,
        max_running: int,
    ) -> None:
        self._pool = pool
        self._residency = residency
        self._geometry = geometry
        self._max_step_tokens = max_step_tokens
        self._max_running = max_running
        self._waiting: list[Sequence] = []  # by arrival
        self._running: list[Sequence] = []  # by arrival
        self._num_arrived = 0
        self.num_preemptions = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def running_adapters(self) -> set[str]:
        """Digests that running sequences use."""
        return {seq.digest for seq in self._running if seq.digest is not None}

    def waiting_adapters(self) -> set[str]:
        """Digests that waiting sequences name."""
        return {seq.digest for seq in self._waiting if seq.digest is not None}

    def uses_adapter(self, digest: str) -> bool:
        """Whether a sequence, running or waiting, names this digest."""
        return any(seq.digest == digest for seq in (*self._running, *self._waiting))

    def num_pages_needed(self, request: AddRequest) -> int:
        """Pages that a request takes at its longest, its adapter's included."""
        num_tokens = len(request.prompt_token_ids) + request.sampling.max_tokens
        pages = self._geometry.num_kv_pages(num_tokens)
        return pages + (self._residency.num_pages(request.digest) if request.digest else 0)

    def add(self, request: AddRequest) -> None:
        """Queue a request. Its adapter must be known, and it must fit in the empty pool."""
        assert self.num_pages_needed(request) <= self._pool.num_pages
        self._waiting.append(
            Sequence(
                request_id=request.request_id,
                prompt_token_ids=request.prompt_token_ids,
                sampling=request.sampling,
                digest=request.digest,
                arrival=self._num_arrived,
            )
        )
        self._num_arrived += 1

    def abort(self, request_id: str) -> bool:
        """Forget a request and free what it holds. False if there is none of that id."""
        for seq in self._running:
            if seq.request_id == request_id:
                self._stop_running(seq)
                return True
        for seq in self._waiting:
            if seq.request_id == request_id:
                self._waiting.remove(seq)
                return True
        return False

    def abort_adapter(self, digest: str) -> list[str]:
        """Forget all waiting requests of an adapter that could not be copied; their ids."""
        aborted = [seq.request_id for seq in self._waiting if seq.digest == digest]
        self._waiting = [seq for seq in self._waiting if seq.digest != digest]
        return aborted

    def schedule(self) -> tuple[Batch, list[Placement]]:
        """The next batch (it may be empty) and the adapter copies to start beside it."""
        chunks: list[ScheduledChunk] = []
        placements: list[Placement] = []
        budget = self._schedule_running(chunks)
        self._admit(chunks, placements, budget)
        return Batch(chunks), placements

    def commit(self, batch: Batch, tokens: SequenceOf[int | None]) -> list[TokenOutput]:
        """Take the sampled tokens of a batch, one for each chunk that samples, in order.

        A token of None ends its sequence with the finish reason "error": its logits were not
        finite.
        """
        outputs = []
        sampled = iter(tokens)
        for chunk in batch.chunks:
            seq = chunk.sequence
            samples = chunk.samples  # before the count below moves
            seq.num_computed_tokens += chunk.num_new_tokens
            if samples:
                outputs.append(self._append(seq, next(sampled)))
        return outputs

    def _append(self, seq: Sequence, token: int | None) -> TokenOutput:
        if token is None:
            self._stop_running(seq)
            return TokenOutput(seq.request_id, [], "error")
        seq.output_token_ids.append(token)
        reason = seq.finish_reason()
        if reason is not None:
            self._stop_running(seq)
        return TokenOutput(seq.request_id, [token], reason)

    def _schedule_running(self, chunks: list[ScheduledChunk]) -> int:
        """Schedule running sequences: decodes, then prefills, each by arrival."""
        budget = self._max_step_tokens
        for seq in sorted(self._running, key=lambda other: other.num_uncomputed_tokens > 1):
            num_new = min(budget, seq.num_uncomputed_tokens)
            if num_new > 0 and self._keep(seq, seq.num_computed_tokens + num_new):
                chunks.append(ScheduledChunk(seq, num_new))
                budget -= num_new
        return budget

    def _keep(self, seq: Sequence, num_tokens: int) -> bool:
        """Grow a running sequence; preempt the youngest while pages are short.

        Returns False if the sequence itself was preempted. One that a step has already scheduled
        never is: a prefill has all its pages from admission, so only decodes grow, by arrival.
        """
        while seq.pages and not self._grow(seq, num_tokens):
            self._preempt(self._running[-1])
        return bool(seq.pages)

    def _admit(
        self, chunks: list[ScheduledChunk], placements: list[Placement], budget: int
    ) -> None:
        """Admit waiting sequences in order of arrival, and start the copies that they wait for."""
        ahead: set[str] = set()  # adapters of this and earlier waiting sequences: not evicted
        for seq in list(self._waiting):
            if seq.digest is not None:
                ahead.add(seq.digest)
                if not self._residency.is_resident(seq.digest):
                    if not self._begin_load(seq.digest, placements, ahead):
                        return
                    continue
            if budget == 0 or len(self._running) >= self._max_running:
                continue  # no admission any more, but copies may start
            if not self._grow(seq, seq.num_tokens):
                return
            self._start_running(seq)
            num_new = min(budget, seq.num_uncomputed_tokens)
            chunks.append(ScheduledChunk(seq, num_new))
            budget -= num_new

    def _begin_load(
        self, digest: str, placements: list[Placement], protected: Collection[str]
    ) -> bool:
        """Start copying an adapter unless it is on its way. False if there is no room for it."""
        if self._residency.is_loading(digest):
            return True
        if not self._make_room(self._residency.num_pages(digest), protected):
            return False
        while (placement := self._residency.begin_load(digest)) is None:
            # Pages suffice, but no stretch of the row table is long enough: evict until one is.
            if not self._evict(protected):
                return False
        placements.append(placement)
        return True

    def _grow(self, seq: Sequence, num_tokens: int) -> bool:
        """Give a sequence the pages for this many tokens, evicting idle adapters if need be."""
        num_more = self._geometry.num_kv_pages(num_tokens) - len(seq.pages)
        if num_more <= 0:
            return True
        if num_more > self._pool.num_free and not self._make_room(num_more, self._ahead(seq)):
            return False
        pages = self._pool.allocate(num_more, seq.owner)
        assert pages is not None
        seq.pages += pages
        return True

    def _ahead(self, seq: Sequence) -> set[str]:
        """Adapters that it may not evict: its own, and those that older sequences wait with."""
        older = takewhile(lambda other: other.arrival <= seq.arrival, self._waiting)
        return {other.digest for other in older if other.digest is not None}

    def _make_room(self, num_pages: int, protected: Collection[str]) -> bool:
        """Evict idle adapters until this many pages are free; none if that cannot be reached."""
        evictable = self._residency.num_evictable_pages(protected)
        if self._pool.num_free + evictable < num_pages:
            return False
        while self._pool.num_free < num_pages:
            self._evict(protected)
        return True

    def _evict(self, protected: Collection[str]) -> bool:
        wanted = dict.fromkeys(seq.digest for seq in self._waiting if seq.digest is not None)
        return self._residency.evict_idle(protected, list(wanted))

    def _start_running(self, seq: Sequence) -> None:
        if seq.digest is not None:
            self._residency.acquire(seq.digest)
        self._waiting.remove(seq)
        self._running.append(seq)
        self._running.sort(key=lambda other: other.arrival)

    def _stop_running(self, seq: Sequence) -> None:
        self._running.remove(seq)
        self._pool.free(seq.pages, seq.owner)
        seq.pages = []
        if seq.digest is not None:
            self._residency.release(seq.digest)

    def _preempt(self, seq: Sequence) -> None:
        self._stop_running(seq)
        seq.num_computed_tokens = 0
        self._waiting.append(seq)
        self._waiting.sort(key=lambda other: other.arrival)
        self.num_preemptions += 1

    def check(self) -> None:
        """Verify that the pool's pages are where the sequences say.

        Raises:
            PoolCorruptionError: pages are lost, or held twice.
        """
        self._pool.check()
        held = [page for seq in self._running for page in seq.pages]
        if len(set(held)) != len(held) or len(held) != self._pool.num_owned("kv"):
            raise PoolCorruptionError(
                f"running sequences hold {len(held)} pages ({len(set(held))} distinct), "
                f"but the pool counts {self._pool.num_owned('kv')} KV pages"
            )
        if any(seq.pages for seq in self._waiting):
            raise PoolCorruptionError("a waiting sequence holds pages")
