"""Who is on the device: examples of the contract, and a model of it driven at random."""

import itertools
import math
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from motet.memory.eviction import EvictionPolicy, LruPolicy, PageCosts, SavingPolicy
from motet.memory.page_pool import PagePool
from motet.memory.residency import AdapterResidency, Placement

ROWS_PER_PAGE = 3


def make(
    num_pages: int, sizes: dict[str, int], policy: EvictionPolicy | None = None
) -> tuple[PagePool, AdapterResidency]:
    pool = PagePool(num_pages)
    policy = policy or SavingPolicy(PageCosts())
    residency = AdapterResidency(pool, policy, num_pages, num_pages * ROWS_PER_PAGE)
    for digest, size in sizes.items():
        residency.register(digest, num_pages=size, num_rows=size * ROWS_PER_PAGE)
    return pool, residency


def load(residency: AdapterResidency, digest: str) -> Placement:
    placement = residency.begin_load(digest)
    assert placement is not None
    residency.finish_load(digest)
    return placement


def candidates(residency: AdapterResidency, digests: Iterable[str]) -> list[str]:
    return [digest for digest in digests if digest in residency.candidates]


def eviction_order(residency: AdapterResidency) -> list[str]:
    """Evict all that may go, the least weight first; the digests as they went."""
    order: list[str] = []
    while (lowest := residency.candidates.lowest()) is not None:
        residency.evict(lowest[1])
        order.append(lowest[1])
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
    residency.evict("a")
    assert residency.begin_load("b") is not None


def test_no_stretch_of_table_rows_is_no_room() -> None:
    pool = PagePool(10)
    residency = AdapterResidency(pool, LruPolicy(), num_slots=10, row_capacity=6)
    for digest, num_rows in (("a", 2), ("b", 2), ("c", 2), ("d", 3)):
        residency.register(digest, num_pages=1, num_rows=num_rows)
    for digest in "abc":
        load(residency, digest)
    assert residency.forget("a")
    assert residency.forget("c")
    assert residency.begin_load("d") is None  # 4 rows are free, in two stretches of 2
    assert pool.num_free == 9
    residency.evict("b")
    assert residency.begin_load("d") is not None


def test_without_a_free_slot_there_is_no_room() -> None:
    pool = PagePool(4)
    residency = AdapterResidency(pool, LruPolicy(), num_slots=1, row_capacity=12)
    for digest in "ab":
        residency.register(digest, num_pages=1, num_rows=1)
    load(residency, "a")
    assert residency.begin_load("b") is None
    assert pool.num_free == 3
    residency.evict("a")
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


def test_the_least_recently_wanted_goes_first_with_least_recently_used() -> None:
    policy = LruPolicy()
    _, residency = make(3, {"a": 1, "b": 1, "c": 1}, policy)
    for digest in "abca":
        policy.tick()
        residency.want(digest)
    for digest in "abc":
        load(residency, digest)
    assert eviction_order(residency) == ["b", "c", "a"]
    assert residency.num_evictions == 3


def test_what_is_wanted_more_often_goes_later_and_uses_alone_change_nothing() -> None:
    policy = SavingPolicy(PageCosts())
    _, residency = make(3, {"a": 1, "b": 1, "c": 1}, policy)
    for digest in "abc":
        load(residency, digest)
    for digest in "abacba":
        policy.tick()
        residency.want(digest)
    for digest in "bcccc":
        residency.acquire(digest)
        residency.release(digest)
    assert eviction_order(residency) == ["c", "b", "a"]


def test_a_candidate_that_is_wanted_is_worth_more_at_once() -> None:
    policy = LruPolicy()
    _, residency = make(2, {"a": 1, "b": 1}, policy)
    load(residency, "a")
    load(residency, "b")
    assert residency.candidates.lowest() == (0.0, "a")
    policy.tick()
    residency.want("a")
    assert residency.candidates.lowest() == (0.0, "b")
    assert residency.candidates.lowest({"b"}) == (1.0, "a")


def test_one_that_is_wanted_while_it_is_in_use_is_worth_more_afterwards() -> None:
    policy = LruPolicy()
    _, residency = make(2, {"a": 1, "b": 1}, policy)
    load(residency, "a")
    load(residency, "b")
    residency.acquire("a")
    policy.tick()
    residency.want("a")
    residency.release("a")
    assert eviction_order(residency) == ["b", "a"]


def test_one_that_is_wanted_over_and_over_was_wanted_again_once() -> None:
    """Its use says as much about what new adapters are worth as one use of one adapter does."""
    weights = []
    for times in (2, 20):
        _, residency = make(1, {"popular": 1, "new": 1})
        for _ in range(times):
            residency.want("popular")
        residency.want("new")
        load(residency, "new")
        weights.append(residency.candidates.lowest())
    assert weights[0] == weights[1] == (pytest.approx(math.log2(2 / 3)), "new")


def test_one_that_was_evicted_is_as_popular_as_it_was() -> None:
    policy = SavingPolicy(PageCosts())
    _, residency = make(2, {"a": 1, "b": 1}, policy)
    for digest in "aaab":
        policy.tick()
        residency.want(digest)
    load(residency, "a")
    before = residency.candidates.lowest()
    residency.evict("a")
    load(residency, "b")
    load(residency, "a")
    assert residency.candidates.lowest({"b"}) == before
    assert eviction_order(residency) == ["b", "a"]


def test_a_resident_adapter_without_uses_and_pins_is_idle() -> None:
    pool, residency = make(9, {"used": 1, "pinned": 2, "loading": 3, "idle": 3})
    for digest in ("used", "pinned", "idle"):
        load(residency, digest)
    residency.acquire("used")
    residency.pin("pinned")
    assert residency.begin_load("loading") is not None
    digests = ["used", "pinned", "loading", "idle"]
    assert (
        [d for d in digests if residency.is_idle(d)] == candidates(residency, digests) == ["idle"]
    )
    assert residency.num_idle_pages == residency.num_idle_pages_of(digests) == 3
    assert residency.num_idle_pages_of(["used", "loading"]) == 0
    for digest in ("used", "pinned", "loading"):
        with pytest.raises(AssertionError, match="may not be evicted"):
            residency.evict(digest)
    residency.release("used")
    residency.unpin("pinned")
    residency.finish_load("loading")
    assert residency.num_idle_pages == 9
    assert sorted(eviction_order(residency)) == sorted(digests)
    assert pool.num_free == 9


def test_one_with_cached_prefixes_is_idle_but_no_candidate() -> None:
    _, residency = make(3, {"a": 3})
    load(residency, "a")
    residency.change_prefix_pages("a", 2)
    assert (residency.is_idle("a"), residency.num_idle_pages) == (True, 3)
    assert "a" not in residency.candidates
    with pytest.raises(AssertionError, match="may not be evicted"):
        residency.evict("a")
    residency.change_prefix_pages("a", -1)
    assert "a" not in residency.candidates
    residency.change_prefix_pages("a", -1)
    residency.evict("a")


def test_one_with_cached_prefixes_is_not_forgotten_before_them() -> None:
    _, residency = make(3, {"a": 3})
    load(residency, "a")
    residency.change_prefix_pages("a", 1)
    with pytest.raises(AssertionError, match="cached prefixes"):
        residency.forget("a")


def test_a_pin_holds_until_as_many_are_taken_back() -> None:
    _, residency = make(4, {"a": 2, "b": 2})
    load(residency, "a")
    for _ in range(2):
        residency.pin("a")
    residency.unpin("a")
    assert residency.is_pinned("a")
    assert "a" not in residency.candidates
    residency.unpin("a")
    assert not residency.is_pinned("a")
    assert "a" in residency.candidates
    with pytest.raises(AssertionError, match="no pin"):
        residency.unpin("a")


def test_one_may_be_pinned_before_it_is_on_the_device() -> None:
    _, residency = make(4, {"a": 2, "b": 1})
    residency.pin("a")
    assert (residency.pinned(), residency.num_pinned_pages) == (["a"], 2)
    assert not residency.is_resident("a")
    load(residency, "a")
    assert "a" not in residency.candidates
    assert residency.forget("a")
    assert (residency.pinned(), residency.num_pinned_pages) == ([], 0)


def test_a_partitioned_pool_has_no_room_beyond_its_part() -> None:
    pool = PagePool(6, num_adapter_pages=2)
    residency = AdapterResidency(pool, LruPolicy(), num_slots=6, row_capacity=18)
    for digest in "ab":
        residency.register(digest, num_pages=2, num_rows=6)
    load(residency, "a")
    assert residency.begin_load("b") is None
    assert pool.num_free == 4
    residency.evict("a")
    load(residency, "b")


def test_each_use_holds_until_it_is_given_back() -> None:
    pool, residency = make(2, {"a": 2})
    load(residency, "a")
    residency.acquire("a")
    residency.acquire("a")
    residency.release("a")
    assert not residency.forget("a")
    assert "a" not in residency.candidates
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
    """Adapters that come, are used, pinned and go, beside KV pages of someone else."""

    sizes: dict[str, int]
    placed: dict[str, Placement]
    loading: set[str]
    users: dict[str, int]
    pins: dict[str, int]
    prefixes: dict[str, int]

    @initialize(
        num_pages=st.integers(1, 16),
        num_kv_pages=st.integers(0, 4),
        sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    )
    def start(self, num_pages: int, num_kv_pages: int, sizes: list[int]) -> None:
        self.sizes = {f"d{index}": size for index, size in enumerate(sizes)}
        self.policy = LruPolicy()
        self.pool, self.residency = make(num_pages, self.sizes, self.policy)
        self.num_kv_pages = min(num_kv_pages, num_pages)
        self.pool.allocate(self.num_kv_pages, "kv:x")
        self.placed, self.loading = {}, set()
        self.users, self.pins, self.prefixes = (dict.fromkeys(self.sizes, 0) for _ in range(3))
        self.weights: dict[str, float] = {}  # of those that were ever candidates or wanted
        self.num_requests = self.num_loads = self.num_evictions = 0

    def draw(self, data: st.DataObject, digests: Iterable[str]) -> str:
        return data.draw(st.sampled_from(sorted(digests)))

    def remove(self, digest: str) -> None:
        del self.placed[digest]
        self.loading.discard(digest)

    def idle(self) -> list[str]:
        held = {d for d in self.sizes if self.users[d] or self.pins[d]} | self.loading
        return [digest for digest in self.placed if digest not in held]

    def evictable(self) -> list[str]:
        return [digest for digest in self.idle() if not self.prefixes[digest]]

    @rule(data=st.data())
    def want(self, data: st.DataObject) -> None:
        digest = self.draw(data, self.sizes)
        self.policy.tick()
        self.residency.want(digest)
        self.num_requests += 1
        self.weights[digest] = float(self.num_requests)

    @rule(data=st.data())
    def begin_load(self, data: st.DataObject) -> None:
        cold = set(self.sizes) - set(self.placed)
        if not cold:
            return
        digest = self.draw(data, cold)
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
        self.num_loads += 1

    def longest_row_gap(self) -> int:
        taken = sorted((p.first_row, p.first_row + p.num_rows) for p in self.placed.values())
        ends = [0, *(end for _, end in taken)]
        starts = [*(start for start, _ in taken), self.pool.num_pages * ROWS_PER_PAGE]
        return max(start - end for start, end in zip(starts, ends, strict=True))

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), succeeds=st.booleans())
    def end_load(self, data: st.DataObject, succeeds: bool) -> None:
        digest = self.draw(data, self.loading)
        if succeeds:
            self.residency.finish_load(digest)
            self.loading.remove(digest)
        else:
            self.residency.fail_load(digest)
            self.remove(digest)

    @precondition(lambda self: set(self.placed) - self.loading)
    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        digest = self.draw(data, set(self.placed) - self.loading)
        self.residency.acquire(digest)
        self.users[digest] += 1

    @precondition(lambda self: any(self.users.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        digest = self.draw(data, (d for d, count in self.users.items() if count))
        self.residency.release(digest)
        self.users[digest] -= 1

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        digest = self.draw(data, self.sizes)
        self.residency.pin(digest)
        self.pins[digest] += 1

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        digest = self.draw(data, (d for d, count in self.pins.items() if count))
        self.residency.unpin(digest)
        self.pins[digest] -= 1

    @precondition(lambda self: any(self.users.values()))
    @rule(data=st.data())
    def keep_a_prefix(self, data: st.DataObject) -> None:
        digest = self.draw(data, (d for d, count in self.users.items() if count))
        self.residency.change_prefix_pages(digest, 1)
        self.prefixes[digest] += 1

    @precondition(lambda self: any(self.prefixes.values()))
    @rule(data=st.data())
    def drop_a_prefix(self, data: st.DataObject) -> None:
        digest = self.draw(data, (d for d, count in self.prefixes.items() if count))
        self.residency.change_prefix_pages(digest, -1)
        self.prefixes[digest] -= 1

    @rule()
    def evict(self) -> None:
        lowest = self.residency.candidates.lowest()
        assert (lowest is not None) == bool(self.evictable())
        if lowest is None:
            return
        weight, digest = lowest
        assert weight == min(self.weights[each] for each in self.evictable())
        assert weight == self.weights[digest]
        self.residency.evict(digest)
        self.remove(digest)
        self.num_evictions += 1

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        digest = self.draw(data, self.sizes)
        if self.prefixes[digest]:
            return
        may_go = digest not in self.loading and not self.users[digest]
        assert self.residency.forget(digest) == may_go
        if may_go:
            self.placed.pop(digest, None)
            self.weights.pop(digest, None)
            self.pins[digest] = 0
            assert not self.residency.is_known(digest)
            size = self.sizes[digest]
            self.residency.register(digest, num_pages=size, num_rows=size * ROWS_PER_PAGE)

    @invariant()
    def agrees(self) -> None:
        self.pool.check()
        residency = self.residency
        assert set(residency.resident()) == set(self.placed) - self.loading
        assert set(residency.loading()) == self.loading
        for digest, placement in self.placed.items():
            assert residency.slot(digest) == placement.slot
            assert residency.is_loading(digest) == (digest in self.loading)
        pages = [page for placement in self.placed.values() for page in placement.pages]
        assert len(set(pages)) == len(pages) == self.pool.num_owned("adapter")
        assert self.pool.num_free == self.pool.num_pages - self.num_kv_pages - len(pages)
        assert len({p.slot for p in self.placed.values()}) == len(self.placed)
        rows = sorted((p.first_row, p.num_rows) for p in self.placed.values())
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(rows))
        assert all(0 <= a <= self.pool.num_pages * ROWS_PER_PAGE - n for a, n in rows)

    @invariant()
    def counts_and_candidates_agree(self) -> None:
        residency = self.residency
        idle = self.idle()
        assert [d for d in self.sizes if residency.is_idle(d)] == sorted(idle)
        assert residency.num_idle_pages == sum(self.sizes[digest] for digest in idle)
        assert residency.num_idle_pages_of(self.sizes) == residency.num_idle_pages
        assert candidates(residency, self.sizes) == sorted(self.evictable())
        for digest in self.evictable():  # one that nobody asked for counts from when it came
            self.weights.setdefault(digest, float(self.num_requests))
        pinned = [digest for digest, count in self.pins.items() if count]
        assert sorted(residency.pinned()) == sorted(pinned)
        assert residency.num_pinned_pages == sum(self.sizes[digest] for digest in pinned)
        assert {d: residency.num_users(d) for d in self.sizes} == self.users
        assert residency.num_known == len(self.sizes)
        assert (residency.num_loads, residency.num_evictions) == (
            self.num_loads,
            self.num_evictions,
        )


TestResidencyMachine = ResidencyMachine.TestCase
TestResidencyMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
