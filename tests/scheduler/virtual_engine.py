"""An engine in virtual time: the real scheduler over a fake device.

Owns: the loop (schedule, launch, commit; overlapped or not), copies that end when the test says
so, and the comparison of every token with the expected one. The rules of `rules.py` are checked
after each step.
Does not know: why a test does what it does.
"""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from zlib import crc32

from motet.core.messages import AddRequest, TokenLogprobs, TokenOutput, WeightedAdapter
from motet.core.routing import RoutingRule
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape
from motet.memory.eviction import EvictionPolicy, PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry
from motet.memory.members import Members, Router
from motet.memory.residency import Placement
from motet.memory.unified import unified_memory
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policy import PolicyFactory
from motet.scheduler.scheduler import Scheduler
from motet.scheduler.sequence import Batch, BatchLogprobs, ScheduledChunk
from tests.scheduler import rules
from tests.scheduler.fake_device import VOCAB_SIZE, FakeDevice, Launched, expected_tokens
from tests.scheduler.rules import Progress

SHAPE = ModelShape(
    num_layers=1,
    hidden_size=2,
    intermediate_size=2,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    vocab_size=VOCAB_SIZE,
)
ROWS_PER_PAGE = 3


class VirtualEngine:
    """Schedule, run, commit. Sizes are in pages and tokens.

    Adapters are in host memory from the start, and there is room for all of them, unless
    `host_budget_pages` says otherwise: then each is on disk until it is read. With `overlaps` a
    step is scheduled while the one before is in flight, as on a GPU.
    """

    def __init__(
        self,
        num_pages: int,
        adapters: dict[str, int] | None = None,
        *,
        page_size: int = 2,
        max_step_tokens: int = 16,
        max_running: int = 8,
        host_budget_pages: int | None = None,
        keeps_prefixes: bool = True,
        num_adapter_pages: int | None = None,
        policy: EvictionPolicy | None = None,
        overlaps: bool = False,
        make_policy: PolicyFactory = Fcfs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        num_rows = num_pages * ROWS_PER_PAGE
        self.max_step_tokens = max_step_tokens
        self.max_running = max_running
        self.page_size = page_size
        self.overlaps = overlaps
        self.starts_on_host = host_budget_pages is None
        self._rules_of_admission = [rules.places_are_kept, rules.lower_numbers_come_first]
        if make_policy is Fcfs:
            self._rules_of_admission.append(rules.first_come_first_served)
        self.memory = unified_memory(
            PageGeometry(SHAPE, page_size),
            policy or SavingPolicy(PageCosts()),
            page_bytes=1,
            num_pages=num_pages,
            row_capacity=num_rows,
            host_budget_pages=10**9 if host_budget_pages is None else host_budget_pages,
            num_adapter_pages=num_adapter_pages,
        )
        self.pool, self.residency = self.memory.pool, self.memory.residency
        self.prefixes, self.host = self.memory.prefixes, self.memory.host
        self.scheduler = Scheduler(
            self.memory,
            max_step_tokens=max_step_tokens,
            max_running=max_running,
            keeps_prefixes=keeps_prefixes,
            make_policy=make_policy,
            clock=clock,
        )
        self.live: dict[str, Progress] = {}
        self.finished: dict[str, list[int]] = {}  # tokens by request id
        self.num_cached_tokens: dict[str, int] = {}  # as reported, by request id
        self.loading: dict[str, Placement] = {}
        self.reading: set[str] = set()
        self.num_steps = 0
        self.num_arrived = 0
        self.in_flight: Batch | None = None  # between steps; never, unless they overlap
        self._launched: dict[int, Launched] = {}  # by identity of the batch
        self._logprobs: dict[int, BatchLogprobs] = {}  # likewise
        self._device = FakeDevice(num_pages, page_size, num_rows)
        self._fails_at: dict[str, int] = {}  # output position at which logits are not finite
        for digest, size in (adapters or {}).items():
            self.register(digest, size)

    def register(self, digest: str, num_pages: int) -> None:
        num_rows = num_pages * ROWS_PER_PAGE
        self.residency.register(digest, num_pages=num_pages, num_rows=num_rows)
        if self.starts_on_host:
            self.host.offer(digest, num_pages, digest, ())

    def register_set(
        self, digest: str, num_pages: int, experts: tuple[str, ...], shared: tuple[str, ...] = ()
    ) -> None:
        """A routed set; `num_pages` are those of its gates."""
        router = Router(digest, RoutingRule(top_k=1), experts, len(experts), 1)
        self.residency.register(
            digest,
            num_pages=num_pages,
            num_rows=num_pages * ROWS_PER_PAGE,
            members=Members(tuple(WeightedAdapter(each, 1.0) for each in shared), router),
        )
        if self.starts_on_host:
            self.host.offer(digest, num_pages, digest, ())

    def request(
        self,
        request_id: str,
        num_prompt_tokens: int,
        max_tokens: int,
        digest: str | None = None,
        stop_token_ids: tuple[int, ...] = (),
        tenant: str | None = None,
        shared: tuple[str, int] = ("", 0),
        penalty: float = 0.0,
        priority: int = 0,
        reports_prompt: bool = False,
        parts: Mapping[str, float] = MappingProxyType({}),
    ) -> AddRequest:
        """A request with a prompt of its own, but for what it shares.

        Args:
            parts: weights, all different, by digest: a composition, in place of `digest`.
            shared: the name of a text, and how many tokens of it the prompt begins with.
            penalty: on tokens that the output has; the device does not care, but needs to know.
            reports_prompt: whether log probabilities of the prompt are asked for.
        """
        text, num_shared = shared
        prompt = [
            crc32(f"{text if i < num_shared else request_id}/{i}".encode()) % VOCAB_SIZE
            for i in range(num_prompt_tokens)
        ]
        sampling = SamplingParams(
            max_tokens=max_tokens,
            stop_token_ids=stop_token_ids,
            presence_penalty=penalty,
            num_prompt_logprobs=0 if reports_prompt else None,
        )
        composition = [WeightedAdapter(*part) for part in sorted(parts.items())]
        if composition:
            digest = "+".join(f"{part.weight}*{part.digest}" for part in composition)
        return AddRequest(
            request_id,
            prompt,
            sampling,
            digest,
            tenant,
            priority,
            composition,
            tenant=tenant,
        )

    def add(
        self,
        request_id: str,
        num_prompt_tokens: int,
        max_tokens: int,
        digest: str | None = None,
        *,
        stop_token_ids: tuple[int, ...] = (),
        fails_at: int | None = None,
        tenant: str | None = None,
        shared: tuple[str, int] = ("", 0),
        penalty: float = 0.0,
        priority: int = 0,
        reports_prompt: bool = False,
        parts: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        request = self.request(
            request_id,
            num_prompt_tokens,
            max_tokens,
            digest,
            stop_token_ids,
            tenant,
            shared,
            penalty,
            priority,
            reports_prompt,
            parts,
        )
        expected, reason = expected_tokens(request)
        if fails_at is not None and fails_at < len(expected):
            self._fails_at[request_id] = fails_at
            expected, reason = expected[:fails_at], "error"
        self.scheduler.add(request)
        adapters = self.adapters(request)
        self.live[request_id] = Progress(request, self.num_arrived, expected, reason, adapters)
        self.num_arrived += 1
        self.check()

    def abort(self, request_id: str) -> None:
        assert self.scheduler.abort(request_id) == (request_id in self.live)
        self.live.pop(request_id, None)
        self.check()

    def finish_load(self, digest: str) -> None:
        self._device.end_copy(self.loading.pop(digest))
        self.host.let_go(digest)
        self.residency.finish_load(digest)
        self.check()

    def finish_loads(self) -> None:
        for digest in sorted(self.reading):
            self.finish_read(digest)
        for digest in list(self.loading):
            self.finish_load(digest)

    def finish_read(self, digest: str) -> None:
        self.reading.remove(digest)
        self.host.finish_read(digest, digest)
        self.check()

    def fail_read(self, digest: str) -> None:
        """A read fails, and with it the requests that wait for it."""
        self.reading.remove(digest)
        self.host.fail_read(digest)
        self._abort_adapter(digest)

    def fail_load(self, digest: str) -> None:
        """A copy fails, and with it the requests that wait for it."""
        del self.loading[digest]
        self.host.let_go(digest)
        self.residency.fail_load(digest)
        self._abort_adapter(digest)

    def forget(self, digest: str) -> None:
        """Drop an adapter that no request names and that is not on its way."""
        self.prefixes.forget(digest)
        assert self.residency.forget(digest)
        self.host.drop(digest)
        self.check()

    def _abort_adapter(self, digest: str) -> None:
        aborted = self.scheduler.abort_adapter(digest)
        waiting = [r for r, p in self.live.items() if digest in p.adapters]
        assert sorted(aborted) == sorted(waiting)
        for request_id in aborted:
            del self.live[request_id]
        self.check()

    def adapters(self, request: AddRequest) -> set[str]:
        """All that a request needs on the device."""
        if request.parts:
            return {part.digest for part in request.parts}
        return set() if request.digest is None else {*self.residency.adapters(request.digest)}

    def load(self, *digests: str) -> None:
        """Bring adapters in although no request asks for them."""
        for digest in digests:
            placement = self.residency.begin_load(digest)
            assert placement is not None
            self.host.hold(digest)
            self._begin_copy(placement)
            self.finish_load(digest)

    def step(self) -> list[TokenOutput]:
        if not self.overlaps:
            return self.commit(self.schedule())
        outputs = []
        if self.in_flight is not None and not self.scheduler.may_run_ahead:
            outputs += self.commit(self.in_flight)
            self.in_flight = None
        batch = self.schedule()
        before, self.in_flight = self.in_flight, batch if batch.chunks else None
        if before is not None:
            outputs += self.commit(before)
        return outputs

    def schedule(self) -> Batch:
        """Plan a step, and launch it."""
        running = {r: p.sequence for r, p in self.live.items() if p.is_running and p.sequence}
        before = {r: (seq.num_computed_tokens, seq.num_preemptions) for r, seq in running.items()}
        num_preemptions = self.scheduler.num_preemptions
        may_wait = bool(self.loading or self.reading or self.in_flight)
        plan = self.scheduler.schedule()
        batch = plan.batch
        for digest in plan.reads:
            assert digest not in self.reading
            assert not self.host.has(digest)
            self.reading.add(digest)
        for placement in plan.copies:
            self._begin_copy(placement)
        for refusal in plan.refusals:
            del self.live[refusal.request.request_id]
        for chunk in batch.chunks:
            self.live[chunk.sequence.request_id].sequence = chunk.sequence
        assert batch.num_tokens <= self.max_step_tokens
        assert self.scheduler.num_running <= self.max_running
        rules.chunks_are_sound(batch, self.page_size)
        rules.tokens_are_lost_by_preemption_alone(
            self.live, before, self.scheduler.num_preemptions - num_preemptions
        )
        for rule in self._rules_of_admission:
            rule(batch, running, self.live, self.residency)
        rules.no_decode_waits_for_a_prefill(batch, self.live)
        if self.live and not may_wait:
            is_busy = batch.chunks or plan.copies or plan.reads
            assert is_busy, "requests, nothing under way, yet nothing to do"
        for chunk in batch.chunks:
            adapters = self.live[chunk.sequence.request_id].adapters
            assert {*chunk.sequence.adapters} == adapters
            assert len(chunk.sequence.adapters) == len(adapters)
        self._launched[id(batch)] = self._device.launch(batch)
        self._logprobs[id(batch)] = _prompt_logprobs(batch)
        self.check()
        return batch

    def commit(self, batch: Batch) -> list[TokenOutput]:
        tokens: list[int | None] = list(self._device.wait(self._launched.pop(id(batch))))
        sampling = [chunk.sequence for chunk in batch.chunks if chunk.samples]
        for index, seq in enumerate(sampling):
            if self._fails_at.get(seq.request_id) == len(seq.output_token_ids):
                tokens[index] = None
        ends = {chunk.sequence: chunk.end for chunk in batch.chunks if not chunk.sequence.is_over}
        expected = [
            chunk.sequence.request_id
            for chunk in batch.chunks
            if (chunk.samples or chunk.ends_prompt_only) and chunk.sequence in ends
        ]
        outputs = self.scheduler.commit(batch, tokens, self._logprobs.pop(id(batch)))
        ended = {output.request_id for output in outputs if output.finish_reason is not None}
        assert [output.request_id for output in outputs] == expected
        for seq, end in ends.items():
            assert seq.num_computed_tokens == (0 if seq.request_id in ended else end)
        for output in outputs:
            self._take(output)
        self.num_steps += 1
        self.check()
        return outputs

    def run_until_done(self, max_steps: int) -> None:
        """Step until nothing is left; every copy takes one step."""
        last_step = self.num_steps + max_steps
        while self.live or self.loading or self.reading or self.in_flight:
            assert self.num_steps < last_step, f"{sorted(self.live)} did not end"
            self.step()
            self.finish_loads()
        assert (self.scheduler.num_running, self.scheduler.num_waiting) == (0, 0)
        pinned = {*self.residency.pinned()} & {*self.residency.resident()}
        num_pinned_pages = sum(self.residency.num_pages(digest) for digest in pinned)
        assert self.num_pages_unused + num_pinned_pages == self.pool.num_pages

    def run_until_preempted(self, max_steps: int = 50) -> None:
        """Step until a sequence is preempted for the first time."""
        last_step = self.num_steps + max_steps
        while not self.scheduler.num_preemptions:
            assert self.num_steps < last_step, "nobody was preempted"
            self.step()

    @property
    def num_pages_unused(self) -> int:
        """Pages that are free or cached; pinned ones count as used."""
        num_cached = self.residency.num_idle_pages + self.prefixes.num_idle_pages
        return self.pool.num_free + num_cached

    def _begin_copy(self, placement: Placement) -> None:
        self._device.begin_copy(placement)
        self.loading[placement.digest] = placement

    def _take(self, output: TokenOutput) -> None:
        progress = self.live[output.request_id]
        sampling = progress.request.sampling
        if output.finish_reason != "error":
            told = output.prompt_logprobs
            is_first = not progress.output and sampling.num_prompt_logprobs is not None
            assert (told is not None) == is_first
            assert (
                told is None
                or [each.token_id for each in told] == (progress.request.prompt_token_ids[1:])
            )
        progress.output += output.token_ids
        if output.finish_reason != "error":
            self.num_cached_tokens[output.request_id] = output.num_cached_tokens
        has_token = output.finish_reason != "error" and sampling.max_tokens > 0
        assert len(output.token_ids) == has_token
        if output.finish_reason is None:
            num_left = len(progress.expected) - len(progress.output)
            assert progress.output == progress.expected[: len(progress.output)]
            assert num_left > 0 or progress.expected_reason == "error"
            return
        assert progress.output == progress.expected
        assert output.finish_reason == progress.expected_reason
        assert not progress.is_running
        self.finished[output.request_id] = progress.output
        del self.live[output.request_id]

    def check(self) -> None:
        """What must hold whenever the scheduler is not at work."""
        rules.pages_add_up(self.scheduler, self.memory, self.live)
        rules.adapters_are_there(self.scheduler, self.residency, self.live)


def _prompt_logprobs(batch: Batch) -> BatchLogprobs:
    """What the prompts' tokens are, in place of how likely they were."""
    return BatchLogprobs(
        prompts={chunk.sequence: _told(chunk) for chunk in batch.chunks if chunk.reported_positions}
    )


def _told(chunk: ScheduledChunk) -> list[TokenLogprobs]:
    prompt = chunk.sequence.prompt_token_ids
    return [TokenLogprobs(prompt[p + 1], -1.0, 1, [], []) for p in chunk.reported_positions]
