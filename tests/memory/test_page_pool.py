"""The free list: all-or-nothing allocation, and the detection of every kind of misuse."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from motet.memory.page_pool import PagePool, PoolCorruptionError

OWNERS = ["kv:1", "kv:12", "adapter:1", "kvx:1"]


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


# The three below break the pool from inside: no public call can, which is the point of `check`.


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

    @initialize(num_pages=st.integers(0, 12))
    def start(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.held: dict[str, list[int]] = {owner: [] for owner in OWNERS}

    @property
    def num_held(self) -> int:
        return sum(len(pages) for pages in self.held.values())

    @rule(owner=st.sampled_from(OWNERS), num_pages=st.integers(0, 6))
    def allocate(self, owner: str, num_pages: int) -> None:
        fits = num_pages <= self.pool.num_pages - self.num_held
        pages = self.pool.allocate(num_pages, owner)
        if not fits:
            assert pages is None
            return
        assert pages is not None
        assert len(pages) == num_pages
        self.held[owner] += pages

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
        assert self.pool.num_owned("kv") == len(self.held["kv:1"]) + len(self.held["kv:12"])
        assert self.pool.num_owned("adapter") == len(self.held["adapter:1"])


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
