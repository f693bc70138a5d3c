"""An engine in virtual time: the real scheduler over a fake device.

Owns: the loop (schedule, run, commit), copies that end when the test says so, and the comparison
of every token with the expected one. The rules of `rules.py` are checked after each step.
Does not know: why a test does what it does.
"""

from zlib import crc32

from motet.core.messages import AddRequest, TokenOutput
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape
from motet.memory.geometry import PageGeometry
from motet.memory.page_pool import PagePool
from motet.memory.residency import AdapterResidency, Placement
from motet.scheduler.scheduler import Scheduler
from motet.scheduler.sequence import Batch
from tests.scheduler import rules
from tests.scheduler.fake_device import VOCAB_SIZE, FakeDevice, expected_tokens
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
    """Schedule, run, commit. Sizes are in pages and tokens."""

    def __init__(
        self,
        num_pages: int,
        adapters: dict[str, int] | None = None,
        *,
        page_size: int = 2,
        max_step_tokens: int = 16,
        max_running: int = 8,
    ) -> None:
        num_rows = num_pages * ROWS_PER_PAGE
        self.max_step_tokens = max_step_tokens
        self.max_running = max_running
        self.page_size = page_size
        self.pool = PagePool(num_pages)
        self.residency = AdapterResidency(self.pool, num_pages, num_rows)
        self.scheduler = Scheduler(
            self.pool,
            self.residency,
            PageGeometry(SHAPE, page_size),
            max_step_tokens=max_step_tokens,
            max_running=max_running,
        )
        self.live: dict[str, Progress] = {}
        self.finished: dict[str, list[int]] = {}  # tokens by request id
        self.loading: dict[str, Placement] = {}
        self.num_steps = 0
        self.num_arrived = 0
        self._device = FakeDevice(num_pages, page_size, num_rows)
        self._fails_at: dict[str, int] = {}  # output position at which logits are not finite
        for digest, size in (adapters or {}).items():
            self.register(digest, size)

    def register(self, digest: str, num_pages: int) -> None:
        num_rows = num_pages * ROWS_PER_PAGE
        self.residency.register(digest, num_pages=num_pages, num_rows=num_rows)

    def request(
        self,
        request_id: str,
        num_prompt_tokens: int,
        max_tokens: int,
        digest: str | None = None,
        stop_token_ids: tuple[int, ...] = (),
    ) -> AddRequest:
        prompt = [crc32(f"{request_id}/{i}".encode()) % 97 for i in range(num_prompt_tokens)]
        sampling = SamplingParams(max_tokens=max_tokens, stop_token_ids=stop_token_ids)
        return AddRequest(request_id, prompt, sampling, digest)

    def add(
        self,
        request_id: str,
        num_prompt_tokens: int,
        max_tokens: int,
        digest: str | None = None,
        *,
        stop_token_ids: tuple[int, ...] = (),
        fails_at: int | None = None,
    ) -> None:
        request = self.request(request_id, num_prompt_tokens, max_tokens, digest, stop_token_ids)
        expected, reason = expected_tokens(request)
        if fails_at is not None and fails_at < len(expected):
            self._fails_at[request_id] = fails_at
            expected, reason = expected[:fails_at], "error"
        self.scheduler.add(request)
        self.live[request_id] = Progress(request, self.num_arrived, expected, reason)
        self.num_arrived += 1
        self.check()

    def abort(self, request_id: str) -> None:
        assert self.scheduler.abort(request_id) == (request_id in self.live)
        self.live.pop(request_id, None)
        self.check()

    def finish_load(self, digest: str) -> None:
        self._device.end_copy(self.loading.pop(digest))
        self.residency.finish_load(digest)
        self.check()

    def finish_loads(self) -> None:
        for digest in list(self.loading):
            self.finish_load(digest)

    def fail_load(self, digest: str) -> None:
        """A copy fails, and with it the requests that wait for it."""
        del self.loading[digest]
        self.residency.fail_load(digest)
        aborted = self.scheduler.abort_adapter(digest)
        waiting = [r for r, p in self.live.items() if p.request.digest == digest]
        assert sorted(aborted) == sorted(waiting)
        for request_id in aborted:
            del self.live[request_id]
        self.check()

    def load(self, *digests: str) -> None:
        """Bring adapters in although no request asks for them."""
        for digest in digests:
            placement = self.residency.begin_load(digest)
            assert placement is not None
            self._begin_copy(placement)
            self.finish_load(digest)

    def step(self) -> list[TokenOutput]:
        return self.commit(self.schedule())

    def schedule(self) -> Batch:
        running = {r: p.sequence for r, p in self.live.items() if p.is_running}
        computed = {r: seq.num_computed_tokens for r, seq in running.items() if seq is not None}
        num_preemptions = self.scheduler.num_preemptions
        may_wait = bool(self.loading)
        batch, placements = self.scheduler.schedule()
        for placement in placements:
            self._begin_copy(placement)
        for chunk in batch.chunks:
            self.live[chunk.sequence.request_id].sequence = chunk.sequence
        assert batch.num_tokens <= self.max_step_tokens
        assert self.scheduler.num_running <= self.max_running
        rules.chunks_are_sound(batch, self.page_size)
        rules.tokens_are_lost_by_preemption_alone(
            self.live, computed, self.scheduler.num_preemptions - num_preemptions
        )
        rules.first_come_first_served(batch, self.live, self.residency)
        rules.no_decode_waits_for_a_prefill(batch, self.live)
        if self.live and not may_wait:
            assert batch.chunks or placements, "requests, no copy under way, yet nothing to do"
        self.check()
        return batch

    def commit(self, batch: Batch) -> list[TokenOutput]:
        slots = {d: self.residency.slot(d) for d in self.scheduler.running_adapters()}
        tokens: list[int | None] = list(self._device.run(batch, slots))
        sampling = [chunk.sequence for chunk in batch.chunks if chunk.samples]
        for index, seq in enumerate(sampling):
            if self._fails_at.get(seq.request_id) == len(seq.output_token_ids):
                tokens[index] = None
        ends = {chunk.sequence: chunk.end for chunk in batch.chunks}
        outputs = self.scheduler.commit(batch, tokens)
        assert [output.request_id for output in outputs] == [seq.request_id for seq in sampling]
        assert {seq: seq.num_computed_tokens for seq in ends} == ends
        for output in outputs:
            self._take(output)
        self.num_steps += 1
        self.check()
        return outputs

    def run_until_done(self, max_steps: int) -> None:
        """Step until nothing is left; every copy takes one step."""
        last_step = self.num_steps + max_steps
        while self.live or self.loading:
            assert self.num_steps < last_step, f"{sorted(self.live)} did not end"
            self.step()
            self.finish_loads()
        assert (self.scheduler.num_running, self.scheduler.num_waiting) == (0, 0)
        assert self.pool.num_free + self.residency.num_evictable_pages() == self.pool.num_pages

    def _begin_copy(self, placement: Placement) -> None:
        self._device.begin_copy(placement)
        self.loading[placement.digest] = placement

    def _take(self, output: TokenOutput) -> None:
        progress = self.live[output.request_id]
        progress.output += output.token_ids
        assert len(output.token_ids) == (0 if output.finish_reason == "error" else 1)
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
        rules.pages_add_up(self.scheduler, self.pool, self.live)
        rules.adapters_are_there(self.scheduler, self.residency, self.live)
