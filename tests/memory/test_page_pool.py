"""The free list: all-or-nothing allocation, its two parts, and every kind of misuse detected."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from motet.memory.page_pool import PagePool, PoolCorruptionError

OWNERS = ["kv:1", "kv:12", "prefix:", "adapter:1", "adapter:2", "kvx:1"]
KINDS = ["kv", "prefix", "adapter", "kvx", "none"]


def take(pool: PagePool, num_pages: int, owner: str) -> list[int]:
    pages = pool.allocate(num_pages, owner)
    assert pages is not None
    return pages


def test_a_request_for_more_than_is_free_takes_nothing() -> None:
    pool = PagePool(4)
    assert pool.allocate(3, "kv:a") is not None
    assert pool.allocate(2, "kv:b") is None
    assert (pool.num_free, pool.num_owned("kv")) == (1, 3)
    pool.check()


def test_an_empty_pool_gives_zero_pages() -> None:
    pool = PagePool(0)
    assert pool.allocate(0, "kv:a") == []
    assert pool.allocate(1, "kv:a") is None
    pool.check()


def test_freeing_twice_is_refused() -> None:
    pool = PagePool(3)
    pages = pool.allocate(2, "kv:a")
    assert pages is not None
    pool.free(pages, "kv:a")
    with pytest.raises(PoolCorruptionError, match=f"page {pages[0]} was freed by 'kv:a'"):
        pool.free(pages, "kv:a")
    assert pool.num_free == 3
    pool.check()


def test_the_same_page_twice_in_one_call_is_refused() -> None:
    pool = PagePool(3)
    pages = pool.allocate(1, "kv:a")
    assert pages is not None
    with pytest.raises(PoolCorruptionError):
        pool.free([*pages, *pages], "kv:a")
    assert pool.num_free == 3
    pool.check()


def test_freeing_what_another_owns_is_refused() -> None:
    pool = PagePool(3)
    pages = pool.allocate(1, "kv:a")
    assert pages is not None
    with pytest.raises(PoolCorruptionError, match="belongs to 'kv:a'") as caught:
        pool.free(pages, "kv:b")
    assert caught.value.code == "pool_corruption"
    assert pool.num_owned("kv") == 1
    pool.check()


def test_pages_are_counted_by_what_stands_before_the_first_colon() -> None:
    pool = PagePool(9)
    for owner, num_pages in (("kv:a", 1), ("kv:b:c", 1), ("kvx:a", 2), ("prefix:", 3)):
        take(pool, num_pages, owner)
    counts = {kind: pool.num_owned(kind) for kind in ("kv", "kvx", "prefix", "adapter")}
    assert counts == {"kv": 2, "kvx": 2, "prefix": 3, "adapter": 0}


def test_a_page_is_handed_over_and_then_the_new_owners_alone() -> None:
    pool = PagePool(3)
    first, second = take(pool, 2, "kv:a")
    pool.hand_over(first, "kv:a", "prefix:")
    assert (pool.num_owned("kv"), pool.num_owned("prefix"), pool.num_free) == (1, 1, 1)
    with pytest.raises(PoolCorruptionError, match="belongs to 'prefix:'"):
        pool.free([first], "kv:a")
    pool.check()
    pool.free([first], "prefix:")
    pool.free([second], "kv:a")
    assert (pool.num_owned("kv"), pool.num_owned("prefix"), pool.num_free) == (0, 0, 3)


def test_handing_over_what_another_owns_or_nobody_is_refused() -> None:
    pool = PagePool(2)
    (page,) = take(pool, 1, "kv:a")
    for number in range(2):
        with pytest.raises(PoolCorruptionError):
            pool.hand_over(number, "kv:b", "prefix:")
    assert (pool.num_owned("kv"), pool.num_owned("prefix")) == (1, 0)
    pool.free([page], "kv:a")
    pool.check()


def test_one_pool_is_for_everyone() -> None:
    pool = PagePool(5)
    assert not pool.is_partitioned
    take(pool, 2, "adapter:a")
    for kind in ("adapter", "kv", "prefix"):
        assert pool.capacity(kind) == 5
        assert pool.num_available(kind) == 3
    take(pool, 3, "kv:a")
    assert pool.allocate(1, "adapter:b") is None


def test_neither_part_of_a_partitioned_pool_takes_from_the_other() -> None:
    pool = PagePool(5, num_adapter_pages=2)
    assert pool.is_partitioned
    capacities = {kind: pool.capacity(kind) for kind in ("adapter", "kv", "prefix")}
    assert capacities == {"adapter": 2, "kv": 3, "prefix": 3}
    assert pool.allocate(3, "adapter:a") is None
    assert pool.allocate(4, "kv:a") is None
    assert pool.num_free == 5
    take(pool, 1, "adapter:a")
    assert pool.allocate(2, "adapter:b") is None
    take(pool, 1, "adapter:b")
    assert pool.allocate(1, "adapter:b") is None
    assert pool.num_free == 3
    take(pool, 3, "kv:a")
    pool.check()


def test_kv_and_prefixes_share_one_part() -> None:
    pool = PagePool(5, num_adapter_pages=2)
    pages = take(pool, 2, "kv:a")
    pool.hand_over(pages[0], "kv:a", "prefix:")
    assert (pool.num_available("kv"), pool.num_available("prefix")) == (1, 1)
    assert pool.num_available("adapter") == 2
    assert pool.allocate(2, "kv:b") is None
    pool.free([pages[0]], "prefix:")
    take(pool, 2, "kv:b")
    assert (pool.num_available("kv"), pool.num_available("adapter")) == (0, 2)


# Those below break the pool from inside: no public call can, which is the point of `check`.


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("kind", ["kv", "adapter"])
def test_check_finds_a_wrong_count(kind: str, change: int) -> None:
    pool = PagePool(3)
    take(pool, 2, f"{kind}:a")
    pool.check()
    pool._num_owned[kind] += change
    with pytest.raises(PoolCorruptionError, match="by kind"):
        pool.check()


def test_check_finds_a_page_whose_owner_was_changed() -> None:
    pool = PagePool(3)
    (page,) = take(pool, 1, "kv:a")
    pool._owners[page] = "adapter:a"
    with pytest.raises(PoolCorruptionError, match="by kind"):
        pool.check()


def test_check_finds_a_lost_page() -> None:
    pool = PagePool(3)
    pool._free.pop()
    with pytest.raises(PoolCorruptionError, match="has owner None"):
        pool.check()


def test_check_finds_a_page_that_is_free_twice() -> None:
    pool = PagePool(3)
    pool._free.append(pool._free[0])
    with pytest.raises(PoolCorruptionError, match="twice"):
        pool.check()


def test_check_finds_a_page_that_is_free_and_owned() -> None:
    pool = PagePool(3)
    pages = pool.allocate(1, "kv:a")
    assert pages is not None
    pool._free.append(pages[0])
    with pytest.raises(PoolCorruptionError, match="'kv:a' and free=True"):
        pool.check()


class PoolMachine(RuleBasedStateMachine):
    """The pool against a dictionary of owners."""

    @initialize(num_pages=st.integers(0, 12), data=st.data())
    def start(self, num_pages: int, data: st.DataObject) -> None:
        self.num_adapter_pages = data.draw(st.none() | st.integers(0, num_pages))
        self.pool = PagePool(num_pages, self.num_adapter_pages)
        self.held: dict[str, list[int]] = {owner: [] for owner in OWNERS}

    def num_held(self, *kinds: str) -> int:
        return sum(len(pages) for o, pages in self.held.items() if o.split(":")[0] in kinds)

    def num_left(self, kind: str) -> int:
        """Pages that an owner of this kind may still take."""
        if self.num_adapter_pages is None:
            return self.pool.num_pages - self.num_held(*KINDS)
        if kind == "adapter":
            return self.num_adapter_pages - self.num_held("adapter")
        others = [other for other in KINDS if other != "adapter"]
        return self.pool.num_pages - self.num_adapter_pages - self.num_held(*others)

    @rule(owner=st.sampled_from(OWNERS), num_pages=st.integers(0, 6))
    def allocate(self, owner: str, num_pages: int) -> None:
        fits = num_pages <= self.num_left(owner.split(":")[0])
        pages = self.pool.allocate(num_pages, owner)
        if not fits:
            assert pages is None
            return
        assert pages is not None
        assert len(pages) == num_pages
        self.held[owner] += pages

    @rule(data=st.data(), owner=st.sampled_from(["kv:1", "kv:12"]))
    def keep_as_a_prefix(self, data: st.DataObject, owner: str) -> None:
        if self.held[owner]:
            page = data.draw(st.sampled_from(self.held[owner]))
            self.pool.hand_over(page, owner, "prefix:")
            self.held[owner].remove(page)
            self.held["prefix:"].append(page)

    @rule(owner=st.sampled_from(OWNERS), data=st.data())
    def free(self, owner: str, data: st.DataObject) -> None:
        if not self.held[owner]:
            return
        pages = data.draw(st.lists(st.sampled_from(self.held[owner]), unique=True))
        self.pool.free(pages, owner)
        self.held[owner] = [page for page in self.held[owner] if page not in pages]

    @rule(owner=st.sampled_from(OWNERS), data=st.data())
    def free_what_is_not_held(self, owner: str, data: st.DataObject) -> None:
        others = sorted(set(range(self.pool.num_pages)) - set(self.held[owner]))
        if not others:
            return
        with pytest.raises(PoolCorruptionError):
            self.pool.free([data.draw(st.sampled_from(others))], owner)

    @invariant()
    def agrees(self) -> None:
        self.pool.check()
        pages = [page for held in self.held.values() for page in held]
        assert len(set(pages)) == len(pages)
        assert set(pages) <= set(range(self.pool.num_pages))
        assert self.pool.num_free == self.pool.num_pages - len(pages)
        for kind in KINDS:
            assert self.pool.num_owned(kind) == self.num_held(kind)
            assert self.pool.num_available(kind) == self.num_left(kind)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
