"""Adapters in host memory: examples of the contract, and a list by recency as the model."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from motet.memory.host_tier import HostTier

DIGESTS = "abcdef"


def tier(budget_pages: int, copies: dict[str, int] | None = None) -> HostTier[str]:
    """A tier into which these have been read, in order."""
    host: HostTier[str] = HostTier(budget_pages)
    for digest, num_pages in (copies or {}).items():
        read(host, digest, num_pages)
    return host


def read(host: HostTier[str], digest: str, num_pages: int) -> None:
    assert host.begin_read(digest, num_pages, ())
    host.finish_read(digest, f"copy of {digest}")


def state(host: HostTier[str]) -> tuple[object, ...]:
    there = [(digest, host.has(digest), host.is_reading(digest)) for digest in DIGESTS]
    counts = (host.num_pages, host.num_copies, host.num_reading, host.num_evictions)
    return (there, list(host.copies().items()), counts)


def test_room_is_set_aside_when_a_read_begins() -> None:
    host = tier(4)
    assert not host.has("a")
    assert not host.is_reading("a")
    assert host.begin_read("a", 3, ())
    assert (host.has("a"), host.is_reading("a")) == (False, True)
    assert (host.num_pages, host.num_copies, host.num_reading) == (3, 0, 1)
    assert host.copies() == {}
    with pytest.raises(AssertionError, match="still being read"):
        host.copy("a")
    host.finish_read("a", "A")
    assert (host.has("a"), host.is_reading("a")) == (True, False)
    assert (host.num_pages, host.num_copies, host.num_reading) == (3, 1, 0)
    assert host.copy("a") == "A"
    assert host.copies() == {"a": 3}


def test_a_failed_read_gives_its_room_back_and_may_be_tried_again() -> None:
    host = tier(4)
    for _ in range(3):
        assert host.begin_read("a", 4, ())
        host.fail_read("a")
        assert (host.num_pages, host.num_reading, host.num_copies) == (0, 0, 0)
    read(host, "a", 4)


def test_the_least_recently_read_goes_first_and_no_more_than_need_be() -> None:
    host = tier(6, {"a": 2, "b": 2, "c": 2})
    read(host, "d", 1)
    assert list(host.copies()) == ["b", "c", "d"]
    read(host, "e", 4)
    assert sorted(host.copies()) == ["d", "e"]
    assert host.num_evictions == 3


def test_one_that_was_copied_to_the_device_was_needed() -> None:
    host = tier(3, {"a": 1, "b": 1, "c": 1})
    host.hold("a")
    host.let_go("a")
    read(host, "d", 1)
    assert sorted(host.copies()) == ["a", "c", "d"]


def test_one_whose_read_ended_later_was_needed_later() -> None:
    host = tier(3)
    assert host.begin_read("a", 1, ())
    read(host, "b", 1)
    host.finish_read("a", "A")
    read(host, "c", 1)
    read(host, "d", 1)
    assert sorted(host.copies()) == ["a", "c", "d"]


def test_looking_at_a_copy_is_no_need() -> None:
    host = tier(2, {"a": 1, "b": 1})
    assert host.has("a")
    host.copy("a")
    host.copies()
    host.offer("a", 1, "offered")
    read(host, "c", 1)
    assert sorted(host.copies()) == ["b", "c"]


def test_what_is_held_being_read_or_protected_stays() -> None:
    host = tier(4, {"held": 1, "protected": 1, "free": 1})
    host.hold("held")
    assert host.begin_read("reading", 1, ())
    assert not host.begin_read("x", 2, {"protected"})
    assert host.begin_read("x", 1, {"protected"})
    assert (host.has("held"), host.has("protected"), host.has("free")) == (True, True, False)
    assert host.is_reading("reading")
    host.let_go("held")
    assert host.begin_read("y", 1, {"protected"})
    assert not host.has("held")


@pytest.mark.parametrize("num_pages", [4, 100])
def test_a_read_without_room_changes_nothing(num_pages: int) -> None:
    host = tier(5, {"a": 1, "b": 1, "c": 1})
    host.hold("a")
    assert host.begin_read("d", 1, ())
    before = state(host)
    assert not host.begin_read("e", num_pages, {"b"})
    assert state(host) == before


def test_what_is_offered_is_kept_if_there_is_room_or_room_can_be_made() -> None:
    host = tier(3)
    host.offer("a", 2, "A")
    host.offer("b", 1, "B")
    assert (host.copy("a"), host.copy("b")) == ("A", "B")
    host.offer("c", 2, "C")
    assert host.copies() == {"b": 1, "c": 2}
    assert host.num_evictions == 1


def test_what_is_offered_without_room_is_not_kept_and_costs_nobody_anything() -> None:
    host = tier(3, {"a": 1, "b": 1})
    host.hold("a")
    before = state(host)
    host.offer("c", 3, "C")
    host.offer("d", 4, "D")
    assert state(host) == before


def test_what_is_offered_twice_or_while_it_is_read_stays_as_it_is() -> None:
    host = tier(3, {"a": 1})
    assert host.begin_read("b", 1, ())
    before = state(host)
    host.offer("a", 2, "new")
    host.offer("b", 1, "new")
    assert state(host) == before
    assert host.copy("a") == "copy of a"


def test_a_dropped_copy_is_gone_and_no_eviction() -> None:
    host = tier(3, {"a": 2, "b": 1})
    host.drop("a")
    host.drop("a")
    host.drop("never heard of")
    assert (host.has("a"), host.num_pages, host.num_evictions) == (False, 1, 0)
    read(host, "a", 2)


def test_without_a_budget_nothing_is_kept() -> None:
    host = tier(0)
    host.offer("a", 1, "A")
    assert not host.begin_read("a", 1, ())
    assert host.copies() == {}


def test_misuse_is_caught() -> None:
    host = tier(3, {"a": 1})
    assert host.begin_read("b", 1, ())
    for digest in "ab":
        with pytest.raises(AssertionError, match="already"):
            host.begin_read(digest, 1, ())
    for end in (host.fail_read, lambda digest: host.finish_read(digest, "copy")):
        with pytest.raises(AssertionError, match="not being read"):
            end("a")
    with pytest.raises(AssertionError, match="not in host memory"):
        host.hold("b")
    with pytest.raises(AssertionError, match="still needed"):
        host.drop("b")
    host.hold("a")
    with pytest.raises(AssertionError, match="still needed"):
        host.drop("a")


class HostMachine(RuleBasedStateMachine):
    """The tier against a list of digests by when they were last needed."""

    @initialize(budget_pages=st.integers(0, 10))
    def start(self, budget_pages: int) -> None:
        self.host: HostTier[str] = HostTier(budget_pages)
        self.sizes: dict[str, int] = {}  # of all that take room
        self.by_need: list[str] = []  # copies, the least recently needed first
        self.reading: set[str] = set()
        self.held: set[str] = set()
        self.num_evictions = 0

    def leaving(self, num_pages: int, protected: set[str]) -> list[str] | None:
        """Who has to go for this many pages; None if that is out of reach."""
        room = self.host.budget_pages - sum(self.sizes.values())
        leaving = []
        for digest in self.by_need:
            if room >= num_pages:
                break
            if digest not in self.held and digest not in protected:
                leaving.append(digest)
                room += self.sizes[digest]
        return leaving if room >= num_pages else None

    def remove(self, digests: list[str]) -> None:
        for digest in digests:
            self.by_need.remove(digest)
            del self.sizes[digest]

    def need(self, digest: str) -> None:
        if digest in self.by_need:
            self.by_need.remove(digest)
        self.by_need.append(digest)

    @rule(
        digest=st.sampled_from(DIGESTS),
        num_pages=st.integers(1, 6),
        protected=st.sets(st.sampled_from(DIGESTS), max_size=3),
    )
    def begin_read(self, digest: str, num_pages: int, protected: set[str]) -> None:
        if digest in self.sizes:
            return
        leaving = self.leaving(num_pages, protected)
        before = state(self.host)
        assert self.host.begin_read(digest, num_pages, protected) == (leaving is not None)
        if leaving is None:
            assert state(self.host) == before
            return
        self.remove(leaving)
        self.num_evictions += len(leaving)
        self.sizes[digest] = num_pages
        self.reading.add(digest)

    @precondition(lambda self: self.reading)
    @rule(data=st.data(), succeeds=st.booleans())
    def end_read(self, data: st.DataObject, succeeds: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(self.reading)))
        self.reading.remove(digest)
        if succeeds:
            self.host.finish_read(digest, f"copy of {digest}")
            self.need(digest)
        else:
            self.host.fail_read(digest)
            del self.sizes[digest]

    @rule(digest=st.sampled_from(DIGESTS), num_pages=st.integers(1, 6))
    def offer(self, digest: str, num_pages: int) -> None:
        leaving = None if digest in self.sizes else self.leaving(num_pages, set())
        self.host.offer(digest, num_pages, f"copy of {digest}")
        if leaving is not None:
            self.remove(leaving)
            self.num_evictions += len(leaving)
            self.sizes[digest] = num_pages
            self.need(digest)

    @precondition(lambda self: set(self.by_need) - self.held)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(set(self.by_need) - self.held)))
        self.host.hold(digest)
        self.held.add(digest)
        self.need(digest)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.held)))
        self.host.let_go(digest)
        self.held.remove(digest)

    @rule(digest=st.sampled_from(DIGESTS))
    def drop(self, digest: str) -> None:
        if digest not in self.reading and digest not in self.held:
            self.host.drop(digest)
            if digest in self.by_need:
                self.remove([digest])

    @invariant()
    def agrees(self) -> None:
        assert self.host.num_pages == sum(self.sizes.values()) <= self.host.budget_pages
        assert self.host.num_copies == len(self.by_need)
        assert self.host.num_reading == len(self.reading)
        assert self.host.num_evictions == self.num_evictions
        assert self.host.copies() == {digest: self.sizes[digest] for digest in self.by_need}
        for digest in DIGESTS:
            assert self.host.has(digest) == (digest in self.by_need)
            assert self.host.is_reading(digest) == (digest in self.reading)
        for digest in self.by_need:
            assert self.host.copy(digest) == f"copy of {digest}"


TestHostMachine = HostMachine.TestCase
TestHostMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
