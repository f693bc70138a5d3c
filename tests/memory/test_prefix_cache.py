"""Shared KV pages: examples of the contract, corruption that is found, a dictionary as model."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from motet.memory.page_pool import PoolCorruptionError
from motet.memory.prefix_cache import PREFIX_OWNER, PrefixPage, Scope
from motet.memory.unified import UnifiedMemory
from tests.memory.small_memory import cache, cached_tokens, compute, load, small_memory

BASE: Scope = (None, None)


def take(memory: UnifiedMemory, owner: str = "kv:r") -> int:
    pages = memory.pool.allocate(1, owner)
    assert pages is not None
    return pages[0]


def page_ids(pages: list[PrefixPage]) -> list[int | None]:
    return [node.page for node in pages]


def check(memory: UnifiedMemory, held: list[PrefixPage] | None = None) -> None:
    memory.pool.check()
    memory.prefixes.check(held or [])


# What is found.


def test_nothing_is_found_in_an_empty_cache() -> None:
    memory = small_memory(4)
    assert memory.prefixes.match(BASE, [1, 2, 3], 3) == []
    check(memory)


def test_the_longest_cached_chain_is_found_in_whole_pages_and_in_order() -> None:
    memory = small_memory(8, page_size=2)
    kept = cache(memory, BASE, [1, 2, 3, 4, 5, 6])
    match = memory.prefixes.match
    assert match(BASE, [1, 2, 3, 4, 5, 6], 3) == kept
    assert match(BASE, [1, 2, 3, 4, 5, 6, 7, 8], 4) == kept
    assert match(BASE, [1, 2, 3, 4, 5], 3) == kept[:2]  # half a page is none
    assert match(BASE, [1, 2, 3, 9, 5, 6], 3) == kept[:1]
    assert match(BASE, [1], 1) == []
    assert match(BASE, [9, 2, 3, 4], 2) == []
    assert match(BASE, [3, 4], 1) == []  # the tokens before count


def test_no_more_pages_are_found_than_asked_for() -> None:
    memory = small_memory(8)
    kept = cache(memory, BASE, [1, 2, 3])
    for max_pages in range(4):
        assert memory.prefixes.match(BASE, [1, 2, 3], max_pages) == kept[:max_pages]


def test_page_borders_tell_no_more_than_the_tokens() -> None:
    """Tokens that would look alike if a page's were joined without regard to their width."""
    memory = small_memory(8, page_size=2)
    cache(memory, BASE, [1, 256])
    for tokens in ([256, 1], [1 + 256, 0], [1, 256 + 65536], [0, 1]):
        assert cached_tokens(memory, BASE, tokens) == 0
    assert cached_tokens(memory, BASE, [1, 256]) == 2


def test_looking_changes_nothing() -> None:
    memory = small_memory(4)
    (node,) = cache(memory, BASE, [1])
    before = (node.weight, node.num_users, memory.prefixes.candidates.lowest())
    memory.policy.tick()
    memory.prefixes.match(BASE, [1, 2], 2)
    memory.prefixes.match(("other", None), [1, 2], 2)
    assert (node.weight, node.num_users, memory.prefixes.candidates.lowest()) == before
    check(memory)


@pytest.mark.parametrize("other", [("t2", "d1"), ("t1", "d2"), ("t1", None), (None, "d1"), BASE])
def test_neither_tenants_nor_digests_are_crossed(other: Scope) -> None:
    memory = small_memory(8, {"d1": 1, "d2": 1})
    cache(memory, ("t1", "d1"), [1, 2])
    assert cached_tokens(memory, other, [1, 2]) == 0
    theirs = cache(memory, other, [1, 2])
    ours = memory.prefixes.match(("t1", "d1"), [1, 2], 2)
    assert not set(page_ids(ours)) & set(page_ids(theirs))
    assert memory.pool.num_owned("prefix") == 4
    check(memory)


# Who computes the same twice keeps it once.


def test_a_page_that_another_computed_meanwhile_is_shared_and_ones_own_freed() -> None:
    memory = small_memory(4)
    (first,) = compute(memory, BASE, [1], owner="kv:first")
    own = take(memory, "kv:second")
    assert memory.pool.num_free == 2
    shared = memory.prefixes.extend(BASE, None, [1], own, "kv:second")
    assert shared is first
    assert first.num_users == 2
    assert memory.pool.num_free == 3
    assert (memory.pool.num_owned("kv"), memory.pool.num_owned("prefix")) == (0, 1)
    with pytest.raises(PoolCorruptionError):
        memory.pool.free([own], "kv:second")
    check(memory, [first, first])


def test_equal_beginnings_of_one_scope_share_and_then_branch() -> None:
    memory = small_memory(8, {"d": 1})
    scope = ("t", "d")
    first = compute(memory, scope, [1, 2, 3], owner="kv:first")
    second = compute(memory, scope, [1, 2, 4], owner="kv:second")
    assert first[:2] == second[:2]
    assert first[2] is not second[2]
    assert memory.prefixes.num_pages_of("d") == memory.pool.num_owned("prefix") == 4
    check(memory, first + second)


def test_an_idle_page_that_is_computed_again_is_in_use_again() -> None:
    memory = small_memory(4)
    (idle,) = cache(memory, BASE, [1])
    assert compute(memory, BASE, [1]) == [idle]
    assert memory.prefixes.num_idle_pages == 0
    assert idle not in memory.prefixes.candidates
    check(memory, [idle])


def test_a_kept_page_is_the_caches_and_not_the_sequences() -> None:
    memory = small_memory(4)
    page = take(memory)
    node = memory.prefixes.extend(BASE, None, [1], page, "kv:r")
    assert (node.page, node.num_users) == (page, 1)
    assert (memory.pool.num_owned("kv"), memory.pool.num_owned("prefix")) == (0, 1)
    with pytest.raises(PoolCorruptionError):
        memory.pool.free([page], "kv:r")


def test_a_page_that_is_not_the_owners_is_not_kept() -> None:
    memory = small_memory(4)
    page = take(memory, "kv:other")
    with pytest.raises(PoolCorruptionError):
        memory.prefixes.extend(BASE, None, [1], page, "kv:r")
    assert cached_tokens(memory, BASE, [1]) == 0
    check(memory)


# Uses and eviction.


def test_each_use_holds_until_it_is_given_back() -> None:
    memory = small_memory(4)
    kept = compute(memory, BASE, [1, 2])
    memory.prefixes.acquire(kept[:1])
    assert [node.num_users for node in kept] == [2, 1]
    memory.prefixes.release(kept)
    assert memory.prefixes.num_idle_pages == 1
    assert kept[0] not in memory.prefixes.candidates
    assert kept[1] in memory.prefixes.candidates
    check(memory, kept[:1])
    memory.prefixes.release(kept[:1])
    assert memory.prefixes.num_idle_pages == 2
    check(memory)
    with pytest.raises(AssertionError, match="no use"):
        memory.prefixes.release(kept[:1])


def test_only_leaves_without_users_may_go() -> None:
    memory = small_memory(8)
    chain = cache(memory, BASE, [1, 2])
    used = compute(memory, BASE, [5])
    candidates = memory.prefixes.candidates
    assert len(candidates) == 1
    for node in (chain[0], used[0]):
        with pytest.raises(AssertionError, match="may not be evicted"):
            memory.prefixes.evict(node)
    for node in reversed(chain):
        assert candidates.lowest() == (node.weight, node)
        memory.prefixes.evict(node)
    assert len(candidates) == 0
    assert (memory.prefixes.num_evictions, memory.prefixes.num_idle_pages) == (2, 0)
    assert memory.pool.num_free == 7
    assert cached_tokens(memory, BASE, [1, 2]) == 0
    check(memory, used)


def test_a_page_with_two_branches_waits_for_both() -> None:
    memory = small_memory(8)
    root, left = cache(memory, BASE, [1, 2])
    _, right = cache(memory, BASE, [1, 3])
    memory.prefixes.evict(left)
    assert root not in memory.prefixes.candidates
    memory.prefixes.evict(right)
    assert root in memory.prefixes.candidates
    check(memory)


def test_a_page_that_grows_a_child_is_no_candidate_any_more() -> None:
    memory = small_memory(8)
    (parent,) = cache(memory, BASE, [1])
    held = compute(memory, BASE, [1, 2])
    memory.prefixes.release(held)
    assert parent not in memory.prefixes.candidates
    check(memory)


def test_what_spared_a_request_is_worth_more() -> None:
    memory = small_memory(8)
    (seldom,), (often,) = cache(memory, BASE, [1]), cache(memory, BASE, [2])
    for node, times in ((often, 3), (seldom, 1)):
        for _ in range(times):
            memory.policy.tick()
            memory.prefixes.acquire([node])
            memory.prefixes.touch([node])
            memory.prefixes.release([node])
    assert memory.prefixes.candidates.lowest() == (seldom.weight, seldom)
    assert seldom.weight < often.weight


def test_one_that_is_used_over_and_over_was_used_again_once() -> None:
    """Its use says as much about what new pages are worth as one use of one page does."""
    weights = []
    for times in (1, 20):
        memory = small_memory(8)
        popular = compute(memory, BASE, [1])
        for _ in range(times):
            memory.prefixes.touch(popular)
        (new,) = compute(memory, BASE, [2])
        weights.append(new.weight)
    assert weights[0] == weights[1] == pytest.approx(math.log2(2 / 3))


# Content that is not good, and adapters that go.


def test_discarding_frees_what_nothing_else_needs() -> None:
    memory = small_memory(8)
    kept = cache(memory, BASE, [1, 2, 3])
    memory.prefixes.discard(kept)
    assert (memory.pool.num_free, memory.prefixes.num_idle_pages) == (8, 0)
    assert memory.prefixes.num_evictions == 0
    check(memory)


def test_discarding_stops_at_what_another_uses() -> None:
    memory = small_memory(8)
    others = compute(memory, BASE, [1, 2])
    bad = compute(memory, BASE, [1, 2, 3, 4])
    memory.prefixes.release(bad)
    memory.prefixes.discard(bad)
    assert memory.prefixes.match(BASE, [1, 2, 3, 4], 4) == others
    check(memory, others)


def test_discarding_stops_at_what_other_pages_need() -> None:
    memory = small_memory(8)
    others = cache(memory, BASE, [1, 2, 9])
    bad = cache(memory, BASE, [1, 2, 3])
    memory.prefixes.discard(bad)
    assert cached_tokens(memory, BASE, [1, 2, 3]) == 2
    assert memory.prefixes.match(BASE, [1, 2, 9], 3) == others
    check(memory)


def test_pages_of_a_composition_hold_no_part_and_go_when_one_is_forgotten() -> None:
    memory = small_memory(9, {"d": 1, "e": 1, "f": 1})
    load(memory, "d", "e", "f")
    for scope, parts in (
        (("t", "d+e"), ("d", "e")),
        ((None, "d+e"), ("d", "e")),
        ((None, "e+f"), ("e", "f")),
    ):
        node = memory.prefixes.extend(scope, None, [1], take(memory), "kv:r", parts)
        memory.prefixes.release([node])
    assert memory.prefixes.num_pages_of("d+e") == 2
    memory.residency.evict("d")  # whatever was computed with it
    assert cached_tokens(memory, ("t", "d+e"), [1]) == 1
    memory.prefixes.forget("d")
    assert cached_tokens(memory, ("t", "d+e"), [1]) == 0
    assert cached_tokens(memory, (None, "d+e"), [1]) == 0
    assert cached_tokens(memory, (None, "e+f"), [1]) == 1
    memory.prefixes.check([])
    memory.prefixes.forget("f")
    assert memory.prefixes.num_idle_pages == 0
    memory.prefixes.check([])


def test_forgetting_drops_all_scopes_of_a_digest_and_only_these() -> None:
    memory = small_memory(20, {"old": 1, "new": 1})
    for tenant in (None, "t1", "t2"):
        for digest in (None, "old", "new"):
            cache(memory, (tenant, digest), [1, 2])
    used = compute(memory, ("t1", "new"), [1, 2])
    memory.prefixes.forget("old")
    for tenant in (None, "t1", "t2"):
        found = [cached_tokens(memory, (tenant, digest), [1, 2]) for digest in ("old", "new", None)]
        assert found == [0, 2, 2]
    assert [memory.prefixes.num_pages_of(digest) for digest in ("old", "new", None)] == [0, 6, 6]
    assert memory.pool.num_free == 20 - 12
    check(memory, used)
    memory.prefixes.forget("old")
    memory.prefixes.forget("never heard of")
    check(memory, used)


def test_an_adapter_is_no_candidate_while_it_has_cached_prefixes() -> None:
    memory = small_memory(8, {"d": 2})
    load(memory, "d")
    assert "d" in memory.residency.candidates
    first, second = cache(memory, (None, "d"), [1, 2])
    for node in (second, first):
        assert "d" not in memory.residency.candidates
        memory.prefixes.evict(node)
    assert "d" in memory.residency.candidates


# `check` finds what is broken from inside.


def broken() -> tuple[UnifiedMemory, list[PrefixPage]]:
    """A cache to break: two pages in use, one idle one after them, and one more KV page."""
    memory = small_memory(8, {"d": 1})
    held = compute(memory, ("t", "d"), [1, 2])
    cache(memory, ("t", "d"), [1, 2, 3])
    take(memory)
    memory.prefixes.check(held)
    return memory, held


@pytest.mark.parametrize("change", [-1, 1])
def test_check_finds_a_wrong_use_count(change: int) -> None:
    memory, held = broken()
    held[1].num_users += change
    with pytest.raises(PoolCorruptionError, match="users"):
        memory.prefixes.check(held)


def test_check_finds_a_use_that_nobody_gave_back() -> None:
    memory, held = broken()
    with pytest.raises(PoolCorruptionError, match="users"):
        memory.prefixes.check(held[:1])


def test_check_finds_a_page_that_fell_out_of_the_tree() -> None:
    memory, held = broken()
    held[1].children.clear()
    with pytest.raises(PoolCorruptionError, match="prefix cache has 2 pages"):
        memory.prefixes.check(held)


def test_check_finds_a_page_that_is_in_the_tree_twice() -> None:
    memory, held = broken()
    (leaf,) = held[1].children.values()
    leaf.page = held[0].page
    with pytest.raises(PoolCorruptionError, match="distinct"):
        memory.prefixes.check(held)


def test_check_finds_a_page_that_the_pool_has_taken_back() -> None:
    memory, held = broken()
    assert held[0].page is not None
    memory.pool.free([held[0].page], PREFIX_OWNER)
    with pytest.raises(PoolCorruptionError, match="pool"):
        memory.prefixes.check(held)


@pytest.mark.parametrize("owner", ["kv:r", None])
def test_check_finds_a_page_that_is_not_the_caches(owner: str | None) -> None:
    """A page of the tree that the pool counts as someone else's, or as free."""
    memory, held = broken()
    foreign = [p for p in range(memory.pool.num_pages) if memory.pool._owners[p] == owner]
    (leaf,) = held[1].children.values()
    leaf.page = foreign[0]
    with pytest.raises(PoolCorruptionError):
        memory.prefixes.check(held)


def test_check_finds_a_candidate_that_is_missing_and_one_that_is_none() -> None:
    memory, held = broken()
    (leaf,) = held[1].children.values()
    memory.prefixes.candidates.withdraw(leaf)
    with pytest.raises(PoolCorruptionError, match="evictable is not True"):
        memory.prefixes.check(held)
    memory.prefixes.candidates.offer(leaf, leaf.weight)
    memory.prefixes.check(held)
    memory.prefixes.candidates.offer(held[0], 0.0)
    with pytest.raises(PoolCorruptionError, match="evictable is not False"):
        memory.prefixes.check(held)


def test_check_finds_wrong_counts() -> None:
    memory, held = broken()
    memory.prefixes.num_idle_pages += 1
    with pytest.raises(PoolCorruptionError):
        memory.prefixes.check(held)
    memory.prefixes.num_idle_pages -= 1
    memory.prefixes._num_pages_of["d"] += 1
    with pytest.raises(PoolCorruptionError):
        memory.prefixes.check(held)


# The model.

Key = tuple[Scope, tuple[int, ...]]  # whose, and all tokens up to the end of the page

SCOPES: list[Scope] = [(None, None), ("t", None), (None, "d1"), ("t", "d1"), ("t", "d2")]
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=7).map(tuple)


@dataclass
class Reader:
    """A sequence that has found or computed its first pages."""

    scope: Scope
    tokens: tuple[int, ...]
    kept: list[PrefixPage] = field(default_factory=list)


class PrefixMachine(RuleBasedStateMachine):
    """The cache against a dictionary from a page's tokens, and all before them, to its page."""

    @initialize(page_size=st.integers(1, 2))
    def start(self, page_size: int) -> None:
        self.page_size = page_size
        self.memory = small_memory(12, {"d1": 1, "d2": 1}, page_size=page_size)
        self.prefixes, self.pool = self.memory.prefixes, self.memory.pool
        self.cached: dict[Key, int | None] = {}
        self.readers: list[Reader] = []
        self.num_evictions = 0

    def key(self, scope: Scope, tokens: tuple[int, ...], num_pages: int) -> Key:
        return scope, tokens[: num_pages * self.page_size]

    def path(self, scope: Scope, tokens: tuple[int, ...]) -> list[Key]:
        """The longest cached chain."""
        path: list[Key] = []
        while len(tokens) >= (len(path) + 1) * self.page_size:
            key = self.key(scope, tokens, len(path) + 1)
            if key not in self.cached:
                break
            path.append(key)
        return path

    def num_users(self, key: Key) -> int:
        return sum(
            self.key(reader.scope, reader.tokens, num_pages) == key
            for reader in self.readers
            for num_pages in range(1, len(reader.kept) + 1)
        )

    def is_leaf(self, key: Key) -> bool:
        scope, tokens = key
        return not any(
            other[0] == scope and len(other[1]) > len(tokens) and other[1][: len(tokens)] == tokens
            for other in self.cached
        )

    def may_go(self) -> set[Key]:
        return {key for key in self.cached if self.is_leaf(key) and not self.num_users(key)}

    @rule(scope=st.sampled_from(SCOPES), tokens=prompts, max_pages=st.integers(0, 8))
    def begin(self, scope: Scope, tokens: tuple[int, ...], max_pages: int) -> None:
        found = self.prefixes.match(scope, tokens, max_pages)
        expected = self.path(scope, tokens)[:max_pages]
        assert page_ids(found) == [self.cached[key] for key in expected]
        self.prefixes.acquire(found)
        self.prefixes.touch(found)
        self.readers.append(Reader(scope, tokens, found))
        self.memory.policy.tick()

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        """One more page of a sequence, whether or not another has computed it meanwhile."""
        reader = data.draw(st.sampled_from(self.readers))
        start = len(reader.kept) * self.page_size
        tokens = reader.tokens[start : start + self.page_size]
        if len(tokens) < self.page_size or self.pool.num_free == 0:
            return
        own = take(self.memory)
        parent = reader.kept[-1] if reader.kept else None
        node = self.prefixes.extend(reader.scope, parent, tokens, own, "kv:r")
        key = self.key(reader.scope, reader.tokens, len(reader.kept) + 1)
        assert node.page == self.cached.setdefault(key, own)
        reader.kept.append(node)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), is_good=st.booleans())
    def end(self, data: st.DataObject, is_good: bool) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        self.readers.remove(reader)
        self.prefixes.release(reader.kept)
        if is_good:
            return
        self.prefixes.discard(reader.kept)
        for num_pages in range(len(reader.kept), 0, -1):
            key = self.key(reader.scope, reader.tokens, num_pages)
            if key not in self.may_go():
                break
            del self.cached[key]

    @rule(num_pages=st.integers(1, 3))
    def evict(self, num_pages: int) -> None:
        for _ in range(num_pages):
            lowest = self.prefixes.candidates.lowest()
            assert (lowest is not None) == bool(self.may_go())
            if lowest is None:
                return
            (key,) = [key for key in self.may_go() if self.cached[key] == lowest[1].page]
            self.prefixes.evict(lowest[1])
            del self.cached[key]
            self.num_evictions += 1

    @rule(digest=st.sampled_from(["d1", "d2"]))
    def forget(self, digest: str) -> None:
        if any(reader.scope[1] == digest for reader in self.readers):
            return
        self.prefixes.forget(digest)
        self.cached = {key: page for key, page in self.cached.items() if key[0][1] != digest}

    @invariant()
    def agrees(self) -> None:
        check(self.memory, [node for reader in self.readers for node in reader.kept])
        assert self.pool.num_owned("prefix") == len(set(self.cached.values())) == len(self.cached)
        assert self.pool.num_free == self.pool.num_pages - len(self.cached)
        assert len(self.prefixes.candidates) == len(self.may_go())
        num_idle = sum(not self.num_users(key) for key in self.cached)
        assert self.prefixes.num_idle_pages == num_idle
        assert self.prefixes.num_evictions == self.num_evictions
        for digest in (None, "d1", "d2"):
            num_pages = sum(key[0][1] == digest for key in self.cached)
            assert self.prefixes.num_pages_of(digest) == num_pages
        for scope, tokens in self.cached:
            found = self.prefixes.match(scope, tokens, len(tokens))
            assert page_ids(found) == [self.cached[key] for key in self.path(scope, tokens)]


TestPrefixMachine = PrefixMachine.TestCase
TestPrefixMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
