"""The scheduler under anything that may happen, in any order: a state machine in virtual time.

The rules that every step must keep are in `rules.py`; here is what happens, and that all
requests end once nothing new happens.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.scheduler.virtual_engine import VirtualEngine


class SchedulerMachine(RuleBasedStateMachine):
    """Requests, copies that end or fail in any order, aborts, and adapters that go."""

    @initialize(
        num_pages=st.integers(1, 24),
        page_size=st.integers(1, 4),
        max_step_tokens=st.integers(1, 24),
        max_running=st.integers(1, 6),
        adapter_sizes=st.lists(st.integers(1, 8), max_size=6),
    )
    def start(
        self,
        num_pages: int,
        page_size: int,
        max_step_tokens: int,
        max_running: int,
        adapter_sizes: list[int],
    ) -> None:
        self.sizes = {f"d{index}": size for index, size in enumerate(adapter_sizes)}
        self.engine = VirtualEngine(
            num_pages,
            self.sizes,
            page_size=page_size,
            max_step_tokens=max_step_tokens,
            max_running=max_running,
        )

    @rule(
        data=st.data(),
        num_prompt_tokens=st.integers(1, 30),
        max_tokens=st.integers(1, 12),
        stops=st.booleans(),
        fails_at=st.none() | st.integers(0, 11),
    )
    def add(
        self,
        data: st.DataObject,
        num_prompt_tokens: int,
        max_tokens: int,
        stops: bool,
        fails_at: int | None,
    ) -> None:
        digest = data.draw(
            st.none() | st.sampled_from(sorted(self.sizes)) if self.sizes else st.none()
        )
        engine = self.engine
        request_id = f"r{engine.num_arrived}"
        num_pages = -(-(num_prompt_tokens + max_tokens) // engine.page_size)
        num_pages += self.sizes[digest] if digest else 0
        request = engine.request(request_id, num_prompt_tokens, max_tokens, digest)
        assert engine.scheduler.num_pages_needed(request) == num_pages
        if num_pages > engine.pool.num_pages:
            return  # the engine refuses it before the scheduler sees it
        engine.add(
            request_id,
            num_prompt_tokens,
            max_tokens,
            digest,
            stop_token_ids=tuple(range(0, 97, 5)) if stops else (),
            fails_at=fails_at,
        )

    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.engine.step()

    @precondition(lambda self: self.engine.loading)
    @rule(data=st.data(), succeeds=st.sampled_from([True, True, True, False]))
    def end_load(self, data: st.DataObject, succeeds: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.engine.loading)))
        if succeeds:
            self.engine.finish_load(digest)
        else:
            self.engine.fail_load(digest)

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        """Any request: running, waiting, waiting for a copy, ended, or never heard of."""
        ids = [f"r{index}" for index in range(self.engine.num_arrived + 1)]
        self.engine.abort(data.draw(st.sampled_from(ids)))

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """The last reference of an adapter that no request names is given back; it may return."""
        engine = self.engine
        unused = sorted(d for d in self.sizes if not engine.scheduler.uses_adapter(d))
        if not unused:
            return
        digest = data.draw(st.sampled_from(unused))
        assert engine.residency.forget(digest) == (digest not in engine.loading)
        engine.register(digest, self.sizes[digest])
        engine.check()

    def teardown(self) -> None:
        """Nothing new comes: every request ends, and no page is held."""
        if not hasattr(self, "engine"):
            return
        num_tokens = sum(
            len(p.request.prompt_token_ids) + p.request.sampling.max_tokens
            for p in self.engine.live.values()
        )
        self.engine.finish_loads()
        self.engine.run_until_done(max_steps=10 + 4 * num_tokens)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
