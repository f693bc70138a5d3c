"""Who is on the device: examples of the contract, and a model of it driven at random."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from motet.memory.page_pool import PagePool
from motet.memory.residency import AdapterResidency, Placement

ROWS_PER_PAGE = 3


def make(num_pages: int, sizes: dict[str, int]) -> tuple[PagePool, AdapterResidency]:
    pool = PagePool(num_pages)
    residency = AdapterResidency(pool, num_pages, num_pages * ROWS_PER_PAGE)
    for digest, size in sizes.items():
        residency.register(digest, num_pages=size, num_rows=size * ROWS_PER_PAGE)
    return pool, residency


def load(residency: AdapterResidency, digest: str) -> Placement:
    placement = residency.begin_load(digest)
    assert placement is not None
    residency.finish_load(digest)
    return placement


def eviction_order(
    residency: AdapterResidency, digests: str, wanted: Sequence[str] = ()
) -> list[str]:
    """Evict all that is idle; the digests in the order in which they went."""
    order: list[str] = []
    while residency.evict_idle((), wanted):
        order += [d for d in digests if d not in order and not residency.is_resident(d)]
    return order


def test_known_then_loading_then_resident() -> None:
    pool, residency = make(4, {"a": 3})
    assert residency.is_known("a")
    assert not residency.is_known("b")
    assert not residency.is_resident("a")
    placement = residency.begin_load("a")
    assert placement is not None
    assert (placement.digest, len(placement.pages), placement.num_rows) == ("a", 3, 9)
    assert residency.is_loading("a")
    assert not residency.is_resident("a")
    assert list(residency.resident()) == []
    assert pool.num_free == 1
    residency.finish_load("a")
    assert residency.is_resident("a")
    assert not residency.is_loading("a")
    assert list(residency.resident()) == ["a"]
    assert residency.slot("a") == placement.slot
    assert residency.num_loads == 1


def test_registering_again_changes_nothing() -> None:
    _, residency = make(4, {"a": 3})
    load(residency, "a")
    residency.register("a", num_pages=1, num_rows=1)
    assert residency.num_pages("a") == 3
    assert residency.is_resident("a")


def test_what_does_not_fit_takes_nothing() -> None:
    pool, residency = make(4, {"a": 3, "b": 2})
    load(residency, "a")
    assert residency.begin_load("b") is None
    assert not residency.is_loading("b")
    assert pool.num_free == 1
    assert residency.evict_idle(())
    assert residency.begin_load("b") is not None


def test_no_stretch_of_table_rows_is_no_room() -> None:
    pool = PagePool(10)
    residency = AdapterResidency(pool, num_slots=10, row_capacity=6)
    for digest, num_rows in (("a", 2), ("b", 2), ("c", 2), ("d", 3)):
        residency.register(digest, num_pages=1, num_rows=num_rows)
    for digest in "abc":
        load(residency, digest)
    assert residency.forget("a")
    assert residency.forget("c")
    assert residency.begin_load("d") is None  # 4 rows are free, in two stretches of 2
    assert pool.num_free == 9
    assert residency.evict_idle(())
    assert residency.begin_load("d") is not None


def test_without_a_free_slot_there_is_no_room() -> None:
    pool = PagePool(4)
    residency = AdapterResidency(pool, num_slots=1, row_capacity=12)
    for digest in "ab":
        residency.register(digest, num_pages=1, num_rows=1)
    load(residency, "a")
    assert residency.begin_load("b") is None
    assert pool.num_free == 3
    assert residency.evict_idle(())
    assert load(residency, "b").slot == 0


def test_a_failed_load_gives_all_back_and_may_be_tried_again() -> None:
    pool, residency = make(4, {"a": 4})
    for _ in range(3):
        assert residency.begin_load("a") is not None
        residency.fail_load("a")
        assert not residency.is_resident("a")
        assert not residency.is_loading("a")
        assert pool.num_free == 4
    load(residency, "a")


def test_the_least_recently_used_goes_first() -> None:
    _, residency = make(3, {"a": 1, "b": 1, "c": 1})
    for digest in "abc":
        load(residency, digest)
    residency.acquire("a")
    residency.release("a")
    assert eviction_order(residency, "abc") == ["b", "c", "a"]
    assert residency.num_evictions == 3


def test_a_use_counts_until_it_is_given_back() -> None:
    _, residency = make(3, {"a": 1, "b": 1, "c": 1})
    for digest in "cab":
        load(residency, digest)
    for digest in "ab":
        residency.acquire(digest)
    for digest in "ba":
        residency.release(digest)
    assert eviction_order(residency, "abc") == ["c", "b", "a"]


def test_one_that_was_never_used_counts_from_its_load() -> None:
    _, residency = make(3, {"a": 1, "b": 1, "c": 1})
    for digest in "cab":
        load(residency, digest)
    assert eviction_order(residency, "abc") == ["c", "a", "b"]


def test_what_is_wanted_goes_last_and_the_soonest_wanted_last_of_all() -> None:
    _, residency = make(4, {"a": 1, "b": 1, "c": 1, "d": 1})
    for digest in "abcd":
        load(residency, digest)
    wanted = ["a", "cold", "c", "b"]
    assert eviction_order(residency, "abcd", wanted) == ["d", "b", "c", "a"]


def test_what_is_wanted_and_protected_stays() -> None:
    _, residency = make(2, {"a": 1, "b": 1})
    load(residency, "a")
    load(residency, "b")
    assert residency.evict_idle(("b",), ["a", "b"])
    assert list(residency.resident()) == ["b"]
    assert not residency.evict_idle(("b",), ["a", "b"])


def test_neither_used_nor_loading_nor_protected_is_evicted() -> None:
    _, residency = make(4, {"used": 1, "loading": 1, "protected": 1, "idle": 1})
    for digest in ("used", "protected", "idle"):
        load(residency, digest)
    residency.acquire("used")
    assert residency.begin_load("loading") is not None
    assert residency.num_evictable_pages(("protected",)) == 1
    assert residency.num_evictable_pages() == 2
    assert residency.evict_idle(("protected",))
    assert not residency.is_resident("idle")
    assert not residency.evict_idle(("protected",))
    assert residency.is_resident("used")
    assert residency.is_resident("protected")
    assert residency.is_loading("loading")


def test_each_use_holds_until_it_is_given_back() -> None:
    pool, residency = make(2, {"a": 2})
    load(residency, "a")
    residency.acquire("a")
    residency.acquire("a")
    residency.release("a")
    assert not residency.forget("a")
    assert not residency.evict_idle(())
    residency.release("a")
    assert residency.forget("a")
    assert not residency.is_known("a")
    assert pool.num_free == 2


def test_an_adapter_on_its_way_is_not_forgotten() -> None:
    _, residency = make(2, {"a": 2})
    assert residency.begin_load("a") is not None
    assert not residency.forget("a")
    residency.finish_load("a")
    assert residency.forget("a")


def test_misuse_is_caught() -> None:
    _, residency = make(2, {"a": 1})
    with pytest.raises(AssertionError, match="not resident"):
        residency.acquire("a")
    with pytest.raises(AssertionError, match="not on the device"):
        residency.slot("a")
    assert residency.begin_load("a") is not None
    with pytest.raises(AssertionError, match="not resident"):
        residency.acquire("a")
    with pytest.raises(AssertionError, match="already"):
        residency.begin_load("a")
    with pytest.raises(AssertionError, match="no use"):
        residency.release("a")


class ResidencyMachine(RuleBasedStateMachine):
    """Adapters that come, are used, and go, beside KV pages of someone else."""

    sizes: dict[str, int]
    placed: dict[str, Placement]
    loading: set[str]
    users: dict[str, int]

    @initialize(
        num_pages=st.integers(1, 16),
        num_kv_pages=st.integers(0, 4),
        sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    )
    def start(self, num_pages: int, num_kv_pages: int, sizes: list[int]) -> None:
        self.sizes = {f"d{index}": size for index, size in enumerate(sizes)}
        self.pool, self.residency = make(num_pages, self.sizes)
        self.num_kv_pages = min(num_kv_pages, num_pages)
        self.pool.allocate(self.num_kv_pages, "kv:x")
        self.placed, self.loading = {}, set()
        self.users = dict.fromkeys(self.sizes, 0)
        self.by_use: list[str] = []  # least recently used first

    def touch(self, digest: str) -> None:
        if digest in self.by_use:
            self.by_use.remove(digest)
        self.by_use.append(digest)

    def remove(self, digest: str) -> None:
        del self.placed[digest]
        self.loading.discard(digest)

    @rule(data=st.data())
    def begin_load(self, data: st.DataObject) -> None:
        cold = sorted(set(self.sizes) - set(self.placed))
        if not cold:
            return
        digest = data.draw(st.sampled_from(cold))
        num_free = self.pool.num_free
        # Slots never run out. Rows are never short when pages are not, but may be in pieces.
        num_rows = self.sizes[digest] * ROWS_PER_PAGE
        has_room = num_free >= self.sizes[digest] and self.longest_row_gap() >= num_rows
        placement = self.residency.begin_load(digest)
        assert (placement is not None) == has_room
        if placement is None:
            assert self.pool.num_free == num_free
            return
        assert (placement.digest, len(placement.pages)) == (digest, self.sizes[digest])
        self.placed[digest] = placement
        self.loading.add(digest)
        self.touch(digest)

    def longest_row_gap(self) -> int:
        taken = sorted((p.first_row, p.first_row + p.num_rows) for p in self.placed.values())
        ends = [0, *(end for _, end in taken)]
        starts = [*(start for start, _ in taken), self.pool.num_pages * ROWS_PER_PAGE]
        return max(start - end for start, end in zip(starts, ends, strict=True))

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), succeeds=st.booleans())
    def end_load(self, data: st.DataObject, succeeds: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.loading)))
        if succeeds:
            self.residency.finish_load(digest)
            self.loading.remove(digest)
        else:
            self.residency.fail_load(digest)
            self.remove(digest)

    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        resident = sorted(set(self.placed) - self.loading)
        if resident:
            digest = data.draw(st.sampled_from(resident))
            self.residency.acquire(digest)
            self.users[digest] += 1
            self.touch(digest)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        used = sorted(digest for digest, count in self.users.items() if count)
        if used:
            digest = data.draw(st.sampled_from(used))
            self.residency.release(digest)
            self.users[digest] -= 1
            self.touch(digest)

    def idle(self, protected: set[str]) -> list[str]:
        return [
            digest
            for digest in self.by_use
            if digest in self.placed
            and digest not in self.loading
            and not self.users[digest]
            and digest not in protected
        ]

    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        digests = st.sampled_from(sorted(self.sizes))
        protected = data.draw(st.sets(digests, max_size=2))
        wanted = data.draw(st.lists(digests, unique=True))
        idle = self.idle(protected)
        idle = [d for d in idle if d not in wanted] + [d for d in wanted[::-1] if d in idle]
        num_pages = sum(self.sizes[digest] for digest in idle)
        assert self.residency.num_evictable_pages(protected) == num_pages
        assert self.residency.evict_idle(protected, wanted) == bool(idle)
        if idle:
            self.remove(idle[0])

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.sizes)))
        may_go = digest not in self.loading and not self.users[digest]
        assert self.residency.forget(digest) == may_go
        if may_go:
            self.placed.pop(digest, None)
            assert not self.residency.is_known(digest)
            size = self.sizes[digest]
            self.residency.register(digest, num_pages=size, num_rows=size * ROWS_PER_PAGE)

    @invariant()
    def agrees(self) -> None:
        self.pool.check()
        assert set(self.residency.resident()) == set(self.placed) - self.loading
        for digest, placement in self.placed.items():
            assert self.residency.slot(digest) == placement.slot
            assert self.residency.is_loading(digest) == (digest in self.loading)
        pages = [page for placement in self.placed.values() for page in placement.pages]
        assert len(set(pages)) == len(pages) == self.pool.num_owned("adapter")
        assert self.pool.num_free == self.pool.num_pages - self.num_kv_pages - len(pages)
        assert len({p.slot for p in self.placed.values()}) == len(self.placed)
        rows = sorted((p.first_row, p.num_rows) for p in self.placed.values())
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(rows))
        assert all(0 <= a <= self.pool.num_pages * ROWS_PER_PAGE - n for a, n in rows)


TestResidencyMachine = ResidencyMachine.TestCase
TestResidencyMachine.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
