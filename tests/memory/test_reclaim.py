"""Making room: exactly as much as needed, in the one order, and nothing when out of reach."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.memory.eviction import LruPolicy, PageCosts, SavingPolicy
from motet.memory.page_pool import ADAPTER, KV
from motet.memory.unified import UnifiedMemory
from tests.memory.small_memory import cache, cached_tokens, compute, load, small_memory

KINDS = [KV, ADAPTER]
TOKENS = [1, 2, 3, 4, 5, 6]


def there(memory: UnifiedMemory) -> tuple[object, ...]:
    """What is in the pool, and how often anything was evicted."""
    residency, prefixes = memory.residency, memory.prefixes
    counts = (memory.pool.num_free, residency.num_evictions, prefixes.num_evictions)
    return (
        sorted(residency.resident()),
        sorted(residency.loading()),
        prefixes.num_idle_pages,
        counts,
    )


def resident(memory: UnifiedMemory) -> str:
    return "".join(sorted(memory.residency.resident()))


def worth(*, prefix_s: float = 1.0, adapter_s: float = 1.0) -> SavingPolicy:
    return SavingPolicy(PageCosts(prefix_s, adapter_s))


# As much as needed.


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_free_is_taken_before_anything_is_evicted(kind: str) -> None:
    memory = small_memory(6, {"a": 2})
    load(memory, "a")
    cache(memory, (None, None), [1, 2])
    before = there(memory)
    assert memory.reclaimer.make_room(2, kind, (), [])
    assert memory.reclaimer.make_room(0, kind, (), [])
    assert there(memory) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_pages", range(7))
def test_of_cached_pages_as_many_go_as_are_short(kind: str, num_pages: int) -> None:
    memory = small_memory(8)
    cache(memory, (None, None), TOKENS)
    assert memory.reclaimer.make_room(2 + num_pages, kind, (), [])
    assert memory.pool.num_free == 2 + num_pages
    assert cached_tokens(memory, (None, None), TOKENS) == 6 - num_pages


@pytest.mark.parametrize("kind", KINDS)
def test_of_adapters_as_many_go_as_are_short(kind: str) -> None:
    memory = small_memory(6, {"a": 2, "b": 2, "c": 2}, policy=LruPolicy())
    load(memory, *"abc")
    assert memory.reclaimer.make_room(3, kind, (), [])
    assert resident(memory) == "c"
    assert memory.pool.num_free == 4


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_out_of_reach_costs_nobody_anything(kind: str) -> None:
    memory = small_memory(9, {"idle": 2, "used": 1, "protected": 1})
    load(memory, "idle", "used", "protected")
    memory.residency.acquire("used")
    cache(memory, (None, None), [1, 2])
    compute(memory, (None, None), [7])
    before = there(memory)
    assert memory.reclaimer.num_reclaimable(kind, {"protected"}) == 6
    assert not memory.reclaimer.make_room(7, kind, {"protected"}, ["idle"])
    assert there(memory) == before
    assert memory.reclaimer.make_room(6, kind, {"protected"}, ["idle"])
    assert memory.pool.num_free == 6


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_everything_that_is_counted_can_be_had_and_not_a_page_more(data: st.DataObject) -> None:
    sizes = data.draw(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), min_size=1))
    num_adapter_pages = data.draw(st.none() | st.just(12))
    memory = small_memory(24, sizes, num_adapter_pages=num_adapter_pages)
    load(memory, *sizes)
    digests = st.sampled_from(sorted(sizes))
    for digest in data.draw(st.lists(st.none() | digests, max_size=3)):
        length = data.draw(st.integers(1, 4))
        cache(memory, (None, digest), TOKENS[:length])
    for digest in data.draw(st.sets(digests)):
        memory.residency.acquire(digest)
    protected = data.draw(st.sets(digests))
    wanted = data.draw(st.lists(digests, unique=True))
    kind = data.draw(st.sampled_from(KINDS))
    num_pages = memory.reclaimer.num_reclaimable(kind, protected)
    before = there(memory)
    assert not memory.reclaimer.make_room(num_pages + 1, kind, protected, wanted)
    assert there(memory) == before
    assert memory.reclaimer.make_room(num_pages, kind, protected, wanted)
    assert memory.pool.num_available(kind) == num_pages
    assert not memory.reclaimer.make_room(num_pages + 1, kind, protected, wanted)


def test_both_have_room_only_if_they_have_it_at_once() -> None:
    memory = small_memory(8, {"a": 3, "b": 1})
    load(memory, "a", "b")
    cache(memory, (None, None), [1, 2])
    has_room = memory.reclaimer.has_room
    before = there(memory)
    assert has_room(5, 3, ())
    assert not has_room(5, 4, ())
    assert has_room(2, 3, {"a"})
    assert not has_room(3, 3, {"a"})
    assert there(memory) == before


def test_both_have_room_if_each_has_it_in_its_part() -> None:
    memory = small_memory(8, {"a": 3, "b": 1}, num_adapter_pages=5)
    load(memory, "a", "b")
    cache(memory, (None, None), [1, 2])
    has_room = memory.reclaimer.has_room
    assert has_room(5, 3, ())
    assert not has_room(6, 0, ())
    assert not has_room(0, 4, ())
    assert not has_room(3, 3, {"a"})
    assert has_room(2, 3, {"a"})


# Who stays.


@pytest.mark.parametrize("kind", KINDS)
def test_pinned_used_loading_and_protected_adapters_stay(kind: str) -> None:
    memory = small_memory(9, dict.fromkeys(["pinned", "used", "loading", "protected", "idle"], 1))
    load(memory, "pinned", "used", "protected", "idle")
    memory.residency.pin("pinned")
    memory.residency.acquire("used")
    assert memory.residency.begin_load("loading") is not None
    assert memory.reclaimer.num_reclaimable(kind, {"protected"}) == 5
    assert memory.reclaimer.make_room(5, kind, {"protected"}, [])
    assert memory.residency.resident() == ["pinned", "used", "protected"]
    assert memory.residency.loading() == ["loading"]
    assert not memory.reclaimer.make_room(6, kind, {"protected"}, [])


@pytest.mark.parametrize("kind", KINDS)
def test_protection_outweighs_being_wanted(kind: str) -> None:
    memory = small_memory(2, {"a": 1, "b": 1})
    load(memory, "a", "b")
    assert memory.reclaimer.make_room(1, kind, {"b"}, ["a", "b"])
    assert resident(memory) == "b"
    assert not memory.reclaimer.make_room(2, kind, {"b"}, ["a", "b"])


@pytest.mark.parametrize("kind", KINDS)
def test_pages_in_use_stay(kind: str) -> None:
    memory = small_memory(4)
    held = compute(memory, (None, None), [1, 2])
    assert memory.reclaimer.make_room(2, kind, (), [])
    assert not memory.reclaimer.make_room(3, kind, (), [])
    assert memory.prefixes.match((None, None), [1, 2], 2) == held


# In what order.


@pytest.mark.parametrize("num_adapter_pages", [None, 4])
def test_cached_prefixes_of_an_adapter_go_before_it(num_adapter_pages: int | None) -> None:
    memory = small_memory(
        8,
        {"a": 4},
        policy=worth(prefix_s=1e6, adapter_s=1e-6),
        num_adapter_pages=num_adapter_pages,
    )
    load(memory, "a")
    cache(memory, (None, "a"), [1, 2, 3])
    assert memory.reclaimer.make_room(4 if num_adapter_pages else 8, ADAPTER, (), [])
    assert (resident(memory), memory.prefixes.num_pages_of("a")) == ("", 0)


def test_an_adapter_stays_while_its_cached_prefixes_are_enough() -> None:
    memory = small_memory(8, {"a": 4}, policy=worth(prefix_s=1e6, adapter_s=1e-6))
    load(memory, "a")
    cache(memory, (None, "a"), [1, 2, 3])
    assert memory.reclaimer.make_room(4, KV, (), [])
    assert (resident(memory), memory.prefixes.num_pages_of("a")) == ("a", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_of_equal_rates_the_kind_that_is_cheaper_to_bring_back_goes_first(kind: str) -> None:
    for prefix_s, adapter_s, expected in ((1, 9, ("a", 0)), (9, 1, ("", 2))):
        policy = worth(prefix_s=prefix_s, adapter_s=adapter_s)
        memory = small_memory(4, {"a": 2}, policy=policy)
        load(memory, "a")
        cache(memory, (None, None), [1, 2])
        assert memory.reclaimer.make_room(2, kind, (), [])
        assert (resident(memory), memory.prefixes.num_idle_pages) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_used_more_goes_later_whatever_its_kind(kind: str) -> None:
    for popular in ("adapter", "prefix"):
        memory = small_memory(2, {"a": 1}, policy=worth())
        load(memory, "a")
        found = cache(memory, (None, None), [1])
        for _ in range(5):
            memory.policy.tick()
            if popular == "adapter":
                memory.residency.want("a")
            else:
                memory.prefixes.acquire(found)
                memory.prefixes.touch(found)
                memory.prefixes.release(found)
        assert memory.reclaimer.make_room(1, kind, (), [])
        assert resident(memory) == ("a" if popular == "adapter" else "")


@pytest.mark.parametrize("num_adapter_pages", [None, 4])
def test_wanted_adapters_go_last_and_the_one_needed_last_first(
    num_adapter_pages: int | None,
) -> None:
    memory = small_memory(
        4, dict.fromkeys("abcd", 1), policy=LruPolicy(), num_adapter_pages=num_adapter_pages
    )
    load(memory, *"abcd")
    order = ""
    for num_pages in range(1, 5):
        before = resident(memory)
        assert memory.reclaimer.make_room(num_pages, ADAPTER, (), ["a", "cold", "c", "b"])
        order += "".join(sorted({*before} - {*resident(memory)}))
    assert order == "dbca"


@pytest.mark.parametrize("kind", KINDS)
def test_wanted_adapters_stay_while_a_cached_prefix_is_left(kind: str) -> None:
    memory = small_memory(4, {"a": 1, "b": 1}, policy=worth(prefix_s=1e6, adapter_s=1e-6))
    load(memory, "a", "b")
    cache(memory, (None, None), [1, 2])
    assert memory.reclaimer.make_room(2, kind, (), ["a", "b"])
    assert resident(memory) == "ab"
    assert memory.reclaimer.make_room(3, kind, (), ["a", "b"])
    assert resident(memory) == "a"


@pytest.mark.parametrize("num_adapter_pages", [None, 2])
def test_a_wanted_adapter_stays_while_one_that_is_not_wanted_has_prefixes_alone(
    num_adapter_pages: int | None,
) -> None:
    """An adapter that nobody wants, but whose prefixes are cached, is something else left."""
    memory = small_memory(4, {"unwanted": 1, "wanted": 1}, num_adapter_pages=num_adapter_pages)
    load(memory, "unwanted", "wanted")
    cache(memory, (None, "unwanted"), [1])
    num_pages = 1 if num_adapter_pages else 3
    assert memory.reclaimer.make_room(num_pages, ADAPTER, (), ["wanted"])
    assert memory.residency.resident() == ["wanted"]


def test_a_wanted_adapter_keeps_its_place_while_one_that_is_not_wanted_has_prefixes() -> None:
    memory = small_memory(4, {"unwanted": 1, "wanted": 1})
    load(memory, "unwanted", "wanted")
    cache(memory, (None, "unwanted"), [1])
    assert memory.reclaimer.evict_adapter((), ["wanted"])
    assert memory.residency.resident() == ["wanted"]


# Two parts.


def test_in_a_partitioned_pool_kv_takes_from_prefixes_alone() -> None:
    memory = small_memory(
        6, {"a": 2}, policy=worth(prefix_s=1e6, adapter_s=1e-6), num_adapter_pages=3
    )
    load(memory, "a")
    cache(memory, (None, None), [1, 2, 3])
    assert memory.reclaimer.num_reclaimable(KV) == 3
    assert not memory.reclaimer.make_room(4, KV, (), [])
    assert memory.reclaimer.make_room(3, KV, (), [])
    assert (resident(memory), memory.prefixes.num_idle_pages) == ("a", 0)


def test_in_a_partitioned_pool_adapters_take_from_adapters_alone() -> None:
    memory = small_memory(
        6, {"a": 2, "b": 1}, policy=worth(prefix_s=1e-6, adapter_s=1e6), num_adapter_pages=3
    )
    load(memory, "a", "b")
    cache(memory, (None, None), [1, 2, 3])
    assert memory.reclaimer.num_reclaimable(ADAPTER) == 3
    assert not memory.reclaimer.make_room(4, ADAPTER, (), [])
    assert memory.reclaimer.make_room(3, ADAPTER, (), [])
    assert (resident(memory), memory.prefixes.num_idle_pages) == ("", 3)


def test_in_a_partitioned_pool_an_adapter_goes_with_its_own_prefixes_and_no_others() -> None:
    """Others are worth less, but free nothing in this part and let no adapter go."""
    memory = small_memory(12, {"idle": 2, "used": 1}, num_adapter_pages=3)
    load(memory, "idle", "used")
    memory.residency.acquire("used")
    cache(memory, (None, None), [1, 2])
    cache(memory, (None, "used"), [1, 2])
    for _ in range(2000):
        memory.policy.tick()
    cache(memory, (None, "idle"), [1, 2])
    assert memory.reclaimer.make_room(2, ADAPTER, (), [])
    assert resident(memory) == "used"
    assert [memory.prefixes.num_pages_of(digest) for digest in (None, "used", "idle")] == [2, 2, 0]


# A place in the tables.


def test_one_adapter_is_evicted_for_its_place_and_the_least_worth_first() -> None:
    memory = small_memory(6, dict.fromkeys("abc", 1), policy=LruPolicy())
    load(memory, *"abc")
    cache(memory, (None, None), [1])
    assert memory.reclaimer.evict_adapter((), [])
    assert resident(memory) == "bc"
    assert memory.reclaimer.evict_adapter({"b"}, ["b"])
    assert resident(memory) == "b"
    assert memory.prefixes.num_idle_pages == 1
    assert memory.reclaimer.evict_adapter((), ["b"])
    assert not memory.reclaimer.evict_adapter((), [])


def test_one_without_cached_prefixes_goes_before_any_prefix_does() -> None:
    memory = small_memory(6, {"a": 1, "b": 1}, policy=LruPolicy())
    load(memory, "a", "b")
    cache(memory, (None, "a"), [1])
    assert memory.reclaimer.evict_adapter((), [])
    assert (resident(memory), memory.prefixes.num_idle_pages) == ("a", 1)


def test_where_all_have_cached_prefixes_one_of_them_loses_its_own() -> None:
    memory = small_memory(8, {"a": 1, "b": 1}, policy=LruPolicy())
    load(memory, "a", "b")
    for digest in "ab":
        memory.policy.tick()
        cache(memory, (None, digest), [1, 2])
    assert memory.reclaimer.evict_adapter((), [])
    assert resident(memory) == "b"
    assert (memory.prefixes.num_pages_of("a"), memory.prefixes.num_pages_of("b")) == (0, 2)


@pytest.mark.parametrize("num_adapter_pages", [None, 4])
@pytest.mark.parametrize("wanted", [[], ["used", "pinned", "loading", "protected"]])
def test_where_no_adapter_may_go_nothing_is_evicted(
    wanted: list[str], num_adapter_pages: int | None
) -> None:
    sizes = dict.fromkeys(["used", "pinned", "loading", "protected"], 1)
    memory = small_memory(12, sizes, num_adapter_pages=num_adapter_pages)
    load(memory, "used", "pinned", "protected")
    memory.residency.acquire("used")
    memory.residency.pin("pinned")
    assert memory.residency.begin_load("loading") is not None
    for digest in (None, "used", "pinned", "protected"):
        cache(memory, ("t", digest), [1, 2])
    before = there(memory)
    assert not memory.reclaimer.evict_adapter({"protected"}, wanted)
    assert there(memory) == before
