"""The scheduler under anything that may happen, in any order: a state machine in virtual time.

The rules that every step must keep are in `rules.py`; here is what happens, and that all
requests end once nothing new happens.
"""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from motet.memory.eviction import LruPolicy
from tests.scheduler.policies.cases import CASES
from tests.scheduler.virtual_engine import VirtualEngine


class SchedulerMachine(RuleBasedStateMachine):
    """Requests, reads and copies that end or fail in any order, aborts, pins, adapters that go.

    Requests are of the base model, of adapters, of compositions and of routed sets. Steps overlap
    or not. The policy is any.
    """

    @initialize(
        num_pages=st.integers(1, 24),
        page_size=st.integers(1, 4),
        max_step_tokens=st.integers(1, 24),
        max_running=st.integers(1, 6),
        adapter_sizes=st.lists(st.integers(1, 8), max_size=6),
        set_seeds=st.lists(st.integers(0, 2**32 - 1), max_size=2),
        host_budget_pages=st.none() | st.integers(8, 20),
        keeps_prefixes=st.booleans(),
        is_lru=st.booleans(),
        overlaps=st.booleans(),
        policy=st.sampled_from(sorted(CASES)),
    )
    def start(
        self,
        num_pages: int,
        page_size: int,
        max_step_tokens: int,
        max_running: int,
        adapter_sizes: list[int],
        set_seeds: list[int],
        host_budget_pages: int | None,
        keeps_prefixes: bool,
        is_lru: bool,
        overlaps: bool,
        policy: str,
    ) -> None:
        self.sizes = {f"d{index}": size for index, size in enumerate(adapter_sizes)}
        self.plain = sorted(self.sizes)
        self.pins: list[str] = []
        self.engine = VirtualEngine(
            num_pages,
            self.sizes,
            page_size=page_size,
            max_step_tokens=max_step_tokens,
            max_running=max_running,
            host_budget_pages=host_budget_pages,
            keeps_prefixes=keeps_prefixes,
            policy=LruPolicy() if is_lru else None,
            overlaps=overlaps,
            make_policy=CASES[policy].make_factory(),
            clock=lambda: float(self.engine.num_steps),
        )
        self.sets: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        for seed in set_seeds if self.plain else []:
            rng = random.Random(seed)
            digest = f"s{len(self.sets)}"
            experts = tuple(rng.choices(self.plain, k=rng.randint(1, 4)))
            shared = tuple(rng.sample(self.plain, rng.randint(0, 1)))
            self.sizes[digest] = rng.randint(1, 2)
            self.sets[digest] = experts, shared
            self.engine.register_set(digest, self.sizes[digest], experts, shared)

    def draw_adapters(self, data: st.DataObject) -> tuple[str | None, dict[str, float]]:
        """A digest, or the parts of a composition."""
        if self.plain and data.draw(st.sampled_from([False, False, True])):
            parts = st.lists(st.sampled_from(self.plain), min_size=1, max_size=3, unique=True)
            first = data.draw(st.sampled_from([0.25, 1.0]))
            return None, {digest: first + i for i, digest in enumerate(data.draw(parts))}
        digest = st.none() | st.sampled_from(sorted(self.sizes)) if self.sizes else st.none()
        return data.draw(digest), {}

    @rule(
        data=st.data(),
        num_prompt_tokens=st.integers(1, 30),
        max_tokens=st.integers(0, 12),
        stops=st.booleans(),
        fails_at=st.none() | st.integers(0, 11),
        tenant=st.sampled_from([None, "t1"]),
        text=st.sampled_from(["x", "y"]),
        num_shared=st.integers(0, 20),
        penalty=st.sampled_from([0.0, 0.0, 0.0, 0.5]),
        priority=st.sampled_from([0, 0, 0, -1, 2]),
        reports_prompt=st.sampled_from([False, False, True]),
    )
    def add(
        self,
        data: st.DataObject,
        num_prompt_tokens: int,
        max_tokens: int,
        stops: bool,
        fails_at: int | None,
        tenant: str | None,
        text: str,
        num_shared: int,
        penalty: float,
        priority: int,
        reports_prompt: bool,
    ) -> None:
        digest, parts = self.draw_adapters(data)
        engine = self.engine
        request_id = f"r{engine.num_arrived}"
        num_pages = -(-(num_prompt_tokens + max_tokens) // engine.page_size)
        request = engine.request(request_id, num_prompt_tokens, max_tokens, digest, parts=parts)
        adapters = engine.adapters(request)
        num_pages += sum(self.sizes[each] for each in adapters)
        capacity = engine.scheduler.capacity
        assert capacity.num_pages_needed(request) == num_pages
        num_pinned = sum(self.sizes[each] for each in self.pinned() - adapters)
        assert capacity.fits(request) == (num_pages + num_pinned <= engine.pool.num_pages)
        if not capacity.fits(request):
            return  # the engine refuses it before the scheduler sees it
        engine.add(
            request_id,
            num_prompt_tokens,
            max_tokens,
            digest,
            stop_token_ids=tuple(range(0, 97, 5)) if stops else (),
            fails_at=fails_at,
            tenant=tenant,
            shared=(text, num_shared),
            penalty=penalty,
            priority=priority,
            reports_prompt=reports_prompt,
            parts=parts,
        )

    def pinned(self) -> set[str]:
        return {each for digest in self.pins for each in self.engine.residency.adapters(digest)}

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

    @precondition(lambda self: self.engine.reading)
    @rule(data=st.data(), succeeds=st.sampled_from([True, True, True, False]))
    def end_read(self, data: st.DataObject, succeeds: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.engine.reading)))
        if succeeds:
            self.engine.finish_read(digest)
        else:
            self.engine.fail_read(digest)

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        """Any request: running, waiting, waiting for a copy, ended, or never heard of."""
        ids = [f"r{index}" for index in range(self.engine.num_arrived + 1)]
        self.engine.abort(data.draw(st.sampled_from(ids)))

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.sizes)))
        if self.engine.scheduler.may_pin(digest):
            for each in self.engine.residency.adapters(digest):
                self.engine.residency.pin(each)
            self.pins.append(digest)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.take_back_pin(data.draw(st.sampled_from(self.pins)))

    def take_back_pin(self, digest: str) -> None:
        for each in self.engine.residency.adapters(digest):
            self.engine.residency.unpin(each)
        self.pins.remove(digest)

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """The last reference of an adapter that no request names is given back; it may return."""
        engine = self.engine
        moving = {*engine.loading, *engine.reading}
        unused = sorted(d for d in self.sizes if not engine.scheduler.uses_adapter(d))
        unused = [digest for digest in unused if digest not in moving]
        if not unused:
            return
        digest = data.draw(st.sampled_from(unused))
        for pinned in [each for each in self.pins if digest in engine.residency.adapters(each)]:
            self.take_back_pin(pinned)
        engine.forget(digest)
        if digest in self.sets:
            engine.register_set(digest, self.sizes[digest], *self.sets[digest])
        else:
            engine.register(digest, self.sizes[digest])
        engine.check()

    @invariant()
    def pinned_adapters_stay(self) -> None:
        if hasattr(self, "engine"):
            candidates = self.engine.residency.candidates
            assert not any(digest in candidates for digest in self.pinned())

    def teardown(self) -> None:
        """Nothing new comes: every request ends, and no page is held but for what is pinned."""
        if not hasattr(self, "engine"):
            return
        num_tokens = sum(
            len(p.request.prompt_token_ids) + max(1, p.request.sampling.max_tokens)
            for p in self.engine.live.values()
        )
        num_loads = len(self.sizes) + sum(len(p.adapters) for p in self.engine.live.values())
        self.engine.finish_loads()
        self.engine.run_until_done(max_steps=10 + 6 * num_tokens + 4 * num_loads)
        for digest in self.sizes:
            self.engine.forget(digest)
        num_base_pages = self.engine.prefixes.num_pages_of(None)
        assert self.engine.pool.num_free + num_base_pages == self.engine.pool.num_pages


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
