"""Pool, adapters, prefixes, host copies and sequences together, under anything that may happen.

Sequences hold pages through the real `SequencePages`; what is written to each page is remembered,
so that a page which two think is theirs shows. What has to hold after each step is recounted from
outside: from the sequences, the placements, and all tokens that were ever computed.
"""

from collections import Counter
from collections.abc import Collection
from collections.abc import Sequence as SequenceOf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from motet.core.sampling import SamplingParams
from motet.memory.eviction import Kind, LruPolicy, PageCosts, SavingPolicy
from motet.memory.page_pool import ADAPTER, KV, PREFIX
from motet.memory.prefix_cache import PrefixPage, Scope
from motet.memory.residency import Placement
from motet.scheduler.policy import QueuedRequest
from motet.scheduler.sequence import Sequence
from motet.scheduler.sequence_pages import SequencePages
from tests.memory.small_memory import register, small_memory

MAX_RUNNING = 24  # a page for each at least
TENANTS = [None, None, "t"]
# Many begin alike: with more or less of one text.
prompts = st.tuples(
    st.integers(0, 8).map(lambda length: [0, 0, 1, 0, 1, 1, 0, 1][:length]),
    st.lists(st.integers(0, 1), min_size=1, max_size=2),
).map(lambda parts: [*parts[0], *parts[1]])


class UnifiedMachine(RuleBasedStateMachine):
    """Random sequences, loads, reads, pins, reloads and evictions."""

    @initialize(
        num_pages=st.sampled_from([4, 24, 6, 16, 8, 12, 10, 20]),
        page_size=st.integers(1, 3),
        sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
        host_budget_pages=st.sampled_from([40, 12, 6, 9]),
        adapter_share=st.sampled_from([None, None, 0.5, 0.75]),
        is_lru=st.booleans(),
    )
    def start(
        self,
        num_pages: int,
        page_size: int,
        sizes: list[int],
        host_budget_pages: int,
        adapter_share: float | None,
        is_lru: bool,
    ) -> None:
        self.costs = PageCosts()
        self.memory = small_memory(
            num_pages,
            page_size=page_size,
            policy=LruPolicy() if is_lru else SavingPolicy(self.costs, 16),
            num_adapter_pages=None if adapter_share is None else int(num_pages * adapter_share),
            host_budget_pages=host_budget_pages,
        )
        self.pool, self.residency = self.memory.pool, self.memory.residency
        self.prefixes, self.host = self.memory.prefixes, self.memory.host
        self.reclaimer = self.memory.reclaimer
        self.pages = SequencePages(self.memory, max_running=MAX_RUNNING, keeps_prefixes=True)
        self.contents: list[list[object]] = [[None] * page_size for _ in range(num_pages)]
        self.sizes: dict[str, int] = {}  # of all digests that are known
        self.names: dict[str, str] = {}  # digest by name
        self.draining: set[str] = set()
        self.placements: dict[str, Placement] = {}
        self.loading: set[str] = set()
        self.reading: set[str] = set()
        self.pins: Counter[str] = Counter()
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.seen: set[tuple[Scope, tuple[int, ...]]] = set()  # all that may be cached
        self.num_events: Counter[str] = Counter()
        self.watch_evictions()
        for index, size in enumerate(sizes):
            self.reload(f"a{index}", size)

    # Who goes.

    def watch_evictions(self) -> None:
        """Look at everything that is evicted before it goes, whoever makes room for what."""
        self.protected: Collection[str] = ()
        self.wanted: SequenceOf[str] = ()
        self.num_pages_short: tuple[int, str] | None = None  # what room is made for, of which kind
        evict_adapter, evict_prefix = self.residency.evict, self.prefixes.evict
        make_room = self.reclaimer.make_room

        def watched_evict_adapter(digest: str) -> None:
            self.adapter_may_go(digest)
            evict_adapter(digest)
            del self.placements[digest]
            self.num_events["adapter evictions"] += 1

        def watched_evict_prefix(node: PrefixPage) -> None:
            assert all(node not in seq.kept for seq in self.running)
            assert not node.children
            self.eviction_is_needed()
            evict_prefix(node)
            self.num_events["prefix evictions"] += 1

        def watched_make_room(
            num_pages: int, kind: str, protected: Collection[str], wanted: SequenceOf[str]
        ) -> bool:
            before = self.pages_in_sight()
            num_reclaimable = self.reclaimer.num_reclaimable(kind, protected)
            self.num_pages_short = num_pages, kind
            has_room = make_room(num_pages, kind, protected, wanted)
            self.num_pages_short = None
            assert has_room == (num_pages <= num_reclaimable)
            assert has_room == (num_pages <= self.pool.num_available(kind))
            assert has_room or self.pages_in_sight() == before
            return has_room

        self.residency.evict = watched_evict_adapter  # type: ignore[method-assign]
        self.prefixes.evict = watched_evict_prefix  # type: ignore[method-assign]
        self.reclaimer.make_room = watched_make_room  # type: ignore[method-assign]

    def eviction_is_needed(self) -> None:
        if self.num_pages_short is not None:
            num_pages, kind = self.num_pages_short
            assert self.pool.num_available(kind) < num_pages

    def adapter_may_go(self, digest: str) -> None:
        self.eviction_is_needed()
        idle = self.idle_adapters()
        assert digest in idle
        assert digest not in self.protected
        assert self.prefixes.num_pages_of(digest) == 0
        # In other cases see `test_reclaim.py`: adapters with prefixes are passed over there.
        if digest in self.wanted and self.num_pages_short and not self.pool.is_partitioned:
            assert self.prefixes.num_idle_pages == 0
            left = [other for other in idle if other not in self.protected]
            assert digest == max(
                left, key=lambda d: self.wanted.index(d) if d in self.wanted else 99
            )

    def idle_adapters(self) -> list[str]:
        in_use = {seq.digest for seq in self.running}
        held = {*in_use, *self.loading, *(digest for digest, pins in self.pins.items() if pins)}
        return [digest for digest in self.placements if digest not in held]

    def draw_bystanders(self, data: st.DataObject, own: str | None) -> None:
        """Who is protected and wanted in what comes next."""
        digests = st.sampled_from(sorted(self.sizes))
        self.protected = data.draw(st.sets(digests, max_size=2)) | ({own} if own else set())
        self.wanted = data.draw(st.lists(digests, max_size=3, unique=True))

    def pages_in_sight(self) -> tuple[object, ...]:
        """Who has what; the same before and after what changes nothing."""
        shared = [(node, node.num_users) for node in self.cached_pages()]
        own = [(seq.request_id, list(seq.pages)) for seq in self.running]
        counts = (self.pool.num_free, self.residency.num_evictions, self.prefixes.num_evictions)
        return ({*shared}, own, {**self.placements}, counts)

    @rule(data=st.data(), num_pages=st.integers(0, 24), kind=st.sampled_from([KV, ADAPTER]))
    def evict(self, data: st.DataObject, num_pages: int, kind: str) -> None:
        self.draw_bystanders(data, None)
        self.reclaimer.make_room(num_pages, kind, self.protected, self.wanted)

    @rule(data=st.data())
    def evict_one_adapter(self, data: st.DataObject) -> None:
        self.draw_bystanders(data, None)
        before = self.pages_in_sight()
        may_go = [digest for digest in self.idle_adapters() if digest not in self.protected]
        num_placed = len(self.placements)
        assert self.reclaimer.evict_adapter(self.protected, self.wanted) == bool(may_go)
        assert len(self.placements) == num_placed - bool(may_go)
        if not may_go:
            assert self.pages_in_sight() == before

    # Sequences.

    @rule(
        data=st.data(),
        prompts=st.lists(prompts, min_size=1, max_size=3),
        max_tokens=st.integers(1, 6),
        tenant=st.sampled_from(TENANTS),
    )
    def request(
        self, data: st.DataObject, prompts: list[list[int]], max_tokens: int, tenant: str | None
    ) -> None:
        digest = data.draw(st.sampled_from([None, *sorted(self.names.values())]))
        sampling = SamplingParams(max_tokens=max_tokens)
        for prompt in prompts:
            if not self.fits(len(prompt) + max_tokens, digest):
                continue
            self.memory.policy.tick()
            if digest is not None:
                self.residency.want(digest)
            number = self.num_events["requests"]
            self.num_events["requests"] += 1
            self.waiting.append(
                Sequence(
                    f"r{number}",
                    prompt,
                    sampling,
                    digest,
                    tenant,
                    QueuedRequest(request_id=f"r{number}"),
                )
            )

    def fits(self, num_tokens: int, digest: str | None) -> bool:
        """Whether a sequence could run if nothing else did."""
        num_kv_pages = self.memory.geometry.num_kv_pages(num_tokens)
        num_adapter_pages = sum(self.sizes[each] for each in {*+self.pins, digest} - {None})
        if self.pool.is_partitioned:
            has_room = num_adapter_pages <= self.pool.capacity(ADAPTER)
            return has_room and num_kv_pages <= self.pool.capacity(KV)
        return num_adapter_pages + num_kv_pages <= self.pool.num_pages

    @rule(
        data=st.data(),
        num_tokens=st.lists(st.integers(1, 6), min_size=1, max_size=5),
        output=st.integers(0, 1),
    )
    def run(self, data: st.DataObject, num_tokens: list[int], output: int) -> None:
        """Some steps of an engine."""
        for num_tokens_each in num_tokens:
            self.step(data, num_tokens_each, output)

    def step(self, data: st.DataObject, num_tokens: int, output: int) -> None:
        for digest in sorted(self.loading):
            self.load_has_ended(digest, succeeds=True)
        for digest in sorted(self.reading):
            self.read_has_ended(digest, succeeds=True)
        for seq in list(self.running):
            self.compute_some(data, seq, num_tokens, output)
        for seq in list(self.waiting):
            if seq.digest is None or self.residency.is_resident(seq.digest):
                self.start_one(data, seq, num_spare=0)
            elif self.host.has(seq.digest) and seq.digest not in self.loading:
                self.load_one(data, seq.digest)
            elif not self.host.has(seq.digest):
                self.read_one(data, seq.digest)
        self.drop_drained()

    def ready(self) -> list[Sequence]:
        there = [None, *self.residency.resident()]
        return [seq for seq in self.waiting if seq.digest in there]

    @precondition(lambda self: self.ready())
    @rule(data=st.data(), num_spare=st.integers(0, 2))
    def start_sequence(self, data: st.DataObject, num_spare: int) -> None:
        self.start_one(data, data.draw(st.sampled_from(self.ready())), num_spare)

    def start_one(self, data: st.DataObject, seq: Sequence, num_spare: int) -> None:
        self.draw_bystanders(data, seq.digest)
        before = self.pages_in_sight()
        if not self.pages.start(seq, num_spare, self.protected, self.wanted):
            assert (seq.pages, seq.kept, seq.num_computed_tokens) == ([], [], 0)
            assert self.pages_in_sight() == before
            return
        if seq.digest is not None:
            self.residency.acquire(seq.digest)
        self.waiting.remove(seq)
        self.running.append(seq)
        assert len(seq.pages) == self.memory.geometry.num_kv_pages(seq.num_tokens)
        assert seq.num_computed_tokens == len(seq.kept) * self.memory.geometry.page_size
        assert seq.num_scheduled_tokens == seq.num_computed_tokens < seq.num_tokens
        self.rows_are_theirs()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), num_tokens=st.integers(1, 12), output=st.integers(0, 1))
    def compute(self, data: st.DataObject, num_tokens: int, output: int) -> None:
        self.compute_some(data, data.draw(st.sampled_from(self.running)), num_tokens, output)
        self.drop_drained()

    def compute_some(
        self, data: st.DataObject, seq: Sequence, num_tokens: int, output: int
    ) -> None:
        """Some more tokens; where all are known, one more follows. Without room: preempted."""
        num_new_tokens = min(num_tokens, seq.num_unscheduled_tokens)
        end = seq.num_computed_tokens + num_new_tokens
        self.draw_bystanders(data, seq.digest)
        if not self.pages.grow(seq, end, self.protected, self.wanted):
            self.stop(seq, is_good=True)
            self.waiting.append(seq)
            return
        for position in range(seq.num_computed_tokens, end):
            self.write(seq, position)
        chunk = seq.schedule(num_new_tokens)
        seq.num_computed_tokens = chunk.end
        self.pages.keep_computed(seq)
        self.rows_are_theirs()
        self.seen.add((seq.scope, tuple(seq.token_ids(0, end))))
        if chunk.samples:
            seq.output_token_ids.append(output)
            if seq.finish_reason() is not None:
                self.stop(seq, is_good=True)

    def rows_are_theirs(self) -> None:
        """The table has the pages of each running sequence, in a row that it has alone."""
        rows = [seq.row for seq in self.running if seq.row is not None]
        assert len({*rows}) == len(rows) == len(self.running)
        for seq, row in zip(self.running, rows, strict=True):
            assert self.pages.table.pages(row, len(seq.pages)) == seq.pages

    def write(self, seq: Sequence, position: int) -> None:
        page = seq.pages[position // self.memory.geometry.page_size]
        offset = position % self.memory.geometry.page_size
        self.contents[page][offset] = (seq.scope, seq.token_ids(0, position + 1))

    def stop(self, seq: Sequence, is_good: bool) -> None:
        self.running.remove(seq)
        self.pages.free(seq, is_good=is_good)
        assert (seq.pages, seq.kept, seq.num_computed_tokens) == ([], [], 0)
        if seq.digest is not None:
            self.residency.release(seq.digest)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), is_good=st.booleans())
    def abort_running(self, data: st.DataObject, is_good: bool) -> None:
        self.stop(data.draw(st.sampled_from(self.running)), is_good)
        self.drop_drained()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def abort_waiting(self, data: st.DataObject) -> None:
        self.waiting.remove(data.draw(st.sampled_from(self.waiting)))
        self.drop_drained()

    # Adapters on the device.

    def loadable(self) -> list[str]:
        return [d for d in sorted(self.sizes) if d not in self.placements and self.host.has(d)]

    @precondition(lambda self: self.loadable())
    @rule(data=st.data())
    def begin_load(self, data: st.DataObject) -> None:
        self.load_one(data, data.draw(st.sampled_from(self.loadable())))

    def load_one(self, data: st.DataObject, digest: str) -> None:
        self.draw_bystanders(data, digest)
        num_pages = self.sizes[digest]
        if not self.reclaimer.make_room(num_pages, ADAPTER, self.protected, self.wanted):
            return
        while (placement := self.residency.begin_load(digest)) is None:
            if not self.reclaimer.evict_adapter(self.protected, self.wanted):
                return  # the row table is in pieces
        self.host.hold(digest)
        self.placements[digest] = placement
        self.loading.add(digest)
        self.num_events["loads"] += 1
        for page in placement.pages:
            self.contents[page] = ["half a copy"] * len(self.contents[page])

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), succeeds=st.sampled_from([True, True, False]))
    def end_load(self, data: st.DataObject, succeeds: bool) -> None:
        self.load_has_ended(data.draw(st.sampled_from(sorted(self.loading))), succeeds)
        self.drop_drained()

    def load_has_ended(self, digest: str, succeeds: bool) -> None:
        self.loading.remove(digest)
        self.host.let_go(digest)
        if not succeeds:
            self.residency.fail_load(digest)
            del self.placements[digest]
            return
        self.residency.finish_load(digest)
        self.costs.observe(Kind.ADAPTER, 0.01, self.sizes[digest])
        for page in self.placements[digest].pages:
            self.contents[page] = [digest] * len(self.contents[page])

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        """Any that leaves half of the pool to the others."""
        digest = data.draw(st.sampled_from(sorted(self.names.values())))
        pinned = {*+self.pins, digest}
        if 2 * sum(self.sizes[each] for each in pinned) <= self.pool.capacity(ADAPTER):
            self.residency.pin(digest)
            self.pins[digest] += 1

    @precondition(lambda self: +self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(+self.pins)))
        self.residency.unpin(digest)
        self.pins[digest] -= 1

    # Adapters in host memory.

    @rule(data=st.data())
    def begin_read(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.sizes)))
        if not self.host.has(digest):
            self.read_one(data, digest)

    def read_one(self, data: st.DataObject, digest: str) -> None:
        if digest in self.reading:
            return
        self.draw_bystanders(data, digest)
        before = self.host.copies()
        if self.host.begin_read(digest, self.sizes[digest], self.protected):
            self.reading.add(digest)
        else:
            assert self.host.copies() == before
        self.host_copies_have_gone(before.keys() - self.host.copies().keys(), self.protected)

    def offer(self, digest: str) -> None:
        """A copy comes although nobody has asked for it."""
        before = self.host.copies()
        self.host.offer(digest, self.sizes[digest], f"copy of {digest}")
        self.host_copies_have_gone(before.keys() - self.host.copies().keys(), ())

    def host_copies_have_gone(self, gone: set[str], protected: Collection[str]) -> None:
        assert not gone & self.loading
        assert not gone & {*protected}
        self.num_events["host evictions"] += len(gone)

    @precondition(lambda self: self.reading)
    @rule(data=st.data(), succeeds=st.sampled_from([True, True, False]))
    def end_read(self, data: st.DataObject, succeeds: bool) -> None:
        self.read_has_ended(data.draw(st.sampled_from(sorted(self.reading))), succeeds)
        self.drop_drained()

    def read_has_ended(self, digest: str, succeeds: bool) -> None:
        self.reading.remove(digest)
        if succeeds:
            self.host.finish_read(digest, f"copy of {digest}")
        else:
            self.host.fail_read(digest)

    # Names and digests.

    @precondition(lambda self: {*self.names.values()} & {*self.placements})
    @rule(data=st.data(), size=st.integers(1, 6))
    def reload_one(self, data: st.DataObject, size: int) -> None:
        names = [name for name, digest in self.names.items() if digest in self.placements]
        self.reload(data.draw(st.sampled_from(sorted(names))), size)

    def reload(self, name: str, size: int) -> None:
        """A name gets new content. The old one goes once no sequence uses it."""
        if name in self.names:
            self.draining.add(self.names[name])
        self.num_events["reloads"] += 1
        digest = f"{name}@{self.num_events['reloads']}"
        self.names[name] = digest
        self.sizes[digest] = size
        register(self.memory, digest, size)
        self.offer(digest)
        self.drop_drained()

    def drop_drained(self) -> None:
        used = {seq.digest for seq in (*self.running, *self.waiting)}
        for digest in sorted(self.draining - used - self.loading - self.reading):
            self.draining.remove(digest)
            self.forget(digest)

    def forget(self, digest: str) -> None:
        self.prefixes.forget(digest)
        assert self.prefixes.num_pages_of(digest) == 0
        assert self.residency.forget(digest)
        self.host.drop(digest)
        self.placements.pop(digest, None)
        self.pins.pop(digest, None)
        del self.sizes[digest]

    # What has to hold.

    def cached_pages(self) -> set[PrefixPage]:
        """All pages of the cache, found by all tokens that were ever computed."""
        found: set[PrefixPage] = set()
        for scope, token_ids in list(self.seen):
            path = self.prefixes.match(scope, token_ids, len(token_ids))
            found |= {*path}
            if not path:
                self.seen.remove((scope, token_ids))
        return found

    @invariant()
    def every_page_is_free_once_or_owned_once(self) -> None:
        self.pool.check()
        self.pages.check(self.running)
        cached = self.cached_pages()
        assert cached >= {node for seq in self.running for node in seq.kept}
        owned = [page for seq in self.running for page in seq.pages[len(seq.kept) :]]
        owned += [node.page for node in cached if node.page is not None]
        owned += [page for placement in self.placements.values() for page in placement.pages]
        assert len({*owned}) == len(owned) == self.pool.num_pages - self.pool.num_free

    @invariant()
    def free_cached_and_used_pages_add_up(self) -> None:
        num_kv = len({page for seq in self.running for page in seq.pages})
        idle = self.idle_adapters()
        num_in_use = sum(self.sizes[digest] for digest in {*self.placements} - {*idle})
        num_cached = self.prefixes.num_idle_pages + self.residency.num_idle_pages
        assert self.pool.num_free + num_cached + num_kv + num_in_use == self.pool.num_pages

    @invariant()
    def counters_equal_a_recount(self) -> None:
        cached = self.cached_pages()
        held = {node for seq in self.running for node in seq.kept}
        assert self.prefixes.num_idle_pages == len(cached - held)
        assert self.pool.num_owned(PREFIX) == len(cached)
        for digest in (None, *self.sizes):
            num_pages = sum(node.scope[1] == digest for node in cached)
            assert self.prefixes.num_pages_of(digest) == num_pages
        sizes = self.sizes
        assert self.residency.num_idle_pages == sum(sizes[d] for d in self.idle_adapters())
        assert self.pool.num_owned(ADAPTER) == sum(sizes[d] for d in self.placements)
        assert self.residency.num_pinned_pages == sum(sizes[d] for d in +self.pins)
        users = Counter(seq.digest for seq in self.running)
        assert all(self.residency.num_users(digest) == users[digest] for digest in sizes)
        assert self.residency.num_known == len(sizes)
        assert self.residency.num_loads == self.num_events["loads"]
        assert self.residency.num_evictions == self.num_events["adapter evictions"]
        assert self.prefixes.num_evictions == self.num_events["prefix evictions"]

    @invariant()
    def what_may_be_evicted_is_idle(self) -> None:
        candidates = {digest for digest in self.sizes if digest in self.residency.candidates}
        idle = self.idle_adapters()
        assert candidates == {d for d in idle if not self.prefixes.num_pages_of(d)}
        assert len(candidates) == len(self.residency.candidates)

    @invariant()
    def adapters_are_where_they_are_said_to_be(self) -> None:
        resident = {*self.residency.resident()}
        assert resident == {*self.placements} - self.loading
        assert {seq.digest for seq in self.running} - {None} <= resident
        for digest, placement in self.placements.items():
            content = "half a copy" if digest in self.loading else digest
            for page in placement.pages:
                assert {*self.contents[page]} == {content}

    @invariant()
    def what_was_computed_is_still_there(self) -> None:
        page_size = self.memory.geometry.page_size
        for seq in self.running:
            for position in range(seq.num_computed_tokens):
                content = self.contents[seq.pages[position // page_size]][position % page_size]
                assert content == (seq.scope, seq.token_ids(0, position + 1))

    @invariant()
    def host_memory_keeps_to_its_budget(self) -> None:
        copies = self.host.copies()
        reading = {digest: self.sizes[digest] for digest in self.reading}
        assert not copies.keys() & reading.keys()
        num_pages = sum(copies.values()) + sum(reading.values())
        assert self.host.num_pages == num_pages <= self.host.budget_pages
        assert (self.host.num_copies, self.host.num_reading) == (len(copies), len(reading))
        assert copies == {digest: self.sizes[digest] for digest in copies}
        assert self.loading <= copies.keys()
        assert self.host.num_evictions == self.num_events["host evictions"]

    def teardown(self) -> None:
        """All is given back: nothing but caches is left, and these can be emptied."""
        if not hasattr(self, "memory"):
            return
        for seq in list(self.running):
            self.stop(seq, is_good=True)
        self.waiting.clear()
        for digest in sorted(self.loading):
            self.load_has_ended(digest, succeeds=True)
        for digest in sorted(self.reading):
            self.read_has_ended(digest, succeeds=False)
        for digest in (+self.pins).elements():
            self.residency.unpin(digest)
        self.pins.clear()
        self.every_page_is_free_once_or_owned_once()
        self.counters_equal_a_recount()
        num_idle = self.prefixes.num_idle_pages + self.residency.num_idle_pages
        assert self.pool.num_free + num_idle == self.pool.num_pages
        self.draining.clear()
        for digest in list(self.sizes):
            self.forget(digest)
        num_base_pages = self.prefixes.num_pages_of(None)
        assert self.pool.num_free == self.pool.num_pages - num_base_pages
        assert self.host.num_pages == 0
        assert self.reclaimer.make_room(self.pool.capacity(KV), KV, (), [])
        assert self.pool.num_free == self.pool.num_pages
        self.pool.check()


TestUnifiedMachine = UnifiedMachine.TestCase
TestUnifiedMachine.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
