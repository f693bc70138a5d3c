"""The range allocator against a plain array of taken flags."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from motet.memory.ranges import RangeAllocator


def test_neighbours_join_again() -> None:
    ranges = RangeAllocator(10)
    starts = [ranges.allocate(length) for length in (3, 3, 4)]
    assert starts == [0, 3, 6]
    assert ranges.allocate(1) is None
    ranges.free(0, 3)
    ranges.free(6, 4)
    assert ranges.allocate(5) is None  # 7 are free, but not in one stretch
    ranges.free(3, 3)
    assert ranges.allocate(10) == 0


def test_freeing_twice_is_refused_and_changes_nothing() -> None:
    ranges = RangeAllocator(10)
    for length in (3, 3):
        assert ranges.allocate(length) is not None
    ranges.free(0, 3)
    with pytest.raises(AssertionError, match="freed twice"):
        ranges.free(0, 3)
    with pytest.raises(AssertionError, match="freed twice"):
        ranges.free(1, 4)
    assert ranges.num_free == 7


class RangeMachine(RuleBasedStateMachine):
    """First fit over an array of flags."""

    @initialize(capacity=st.integers(0, 24))
    def start(self, capacity: int) -> None:
        self.ranges = RangeAllocator(capacity)
        self.taken = [False] * capacity
        self.held: list[tuple[int, int]] = []

    @rule(length=st.integers(1, 10))
    def allocate(self, length: int) -> None:
        fits = [
            start
            for start in range(len(self.taken) - length + 1)
            if not any(self.taken[start : start + length])
        ]
        start = self.ranges.allocate(length)
        assert start == (fits[0] if fits else None)
        if start is not None:
            self.taken[start : start + length] = [True] * length
            self.held.append((start, length))

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        if not self.held:
            return
        start, length = data.draw(st.sampled_from(self.held))
        self.ranges.free(start, length)
        self.taken[start : start + length] = [False] * length
        self.held.remove((start, length))

    @rule()
    def an_empty_range_changes_nothing(self) -> None:
        self.ranges.free(0, 0)

    @invariant()
    def counts_agree(self) -> None:
        assert self.ranges.num_free == self.taken.count(False)
        assert self.ranges.capacity == len(self.taken)


TestRangeMachine = RangeMachine.TestCase
TestRangeMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
