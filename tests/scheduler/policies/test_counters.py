"""Counters and the heap over them, against plain lists."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from motet.scheduler.policies.counters import Counter, CounterGroup, LeastFirst

Group = CounterGroup[str, Counter]


def come_and_go(group: Group, count: int) -> None:
    """So many that come to an empty line, are called for a token, and end."""
    for index in range(count):
        counter = group.hold(f"passing-{index}")
        group.lift(counter, None)
        group.call(counter)
        counter.count += 1.0
        group.release(counter)


def test_counters_of_those_who_are_gone_do_not_pile_up() -> None:
    group: Group = CounterGroup(Counter)
    come_and_go(group, 10_000)
    assert len(group) <= 65


def test_a_debt_is_kept_and_is_nobody_elses() -> None:
    group: Group = CounterGroup(Counter)
    debtor = group.hold("debtor")
    debtor.count = 1000.0
    group.release(debtor)
    come_and_go(group, 500)
    assert group.hold("debtor") is debtor
    assert group.hold("new").count < 1000.0


def test_a_debt_to_one_who_still_waits_is_kept() -> None:
    """Others have long been served more, at a lower priority number."""
    group: Group = CounterGroup(Counter)
    group.hold("starved")
    debtor = group.hold("debtor")
    debtor.count = 10.0
    group.release(debtor)
    come_and_go(group, 500)
    assert group.hold("debtor") is debtor


def test_a_counter_that_is_in_use_is_kept() -> None:
    group: Group = CounterGroup(Counter)
    slow = group.hold("slow")
    come_and_go(group, 500)
    assert group.hold("slow") is slow


def test_nobody_gains_by_being_forgotten_before_a_charge_is_given_back() -> None:
    group: Group = CounterGroup(Counter)
    gone, given_up = group.hold("gone"), group.hold("given-up")
    gone.count = 7.0
    group.release(gone)
    group.call(given_up)
    given_up.count += 100.0
    for index in range(200):  # these are called by nobody, and have the others looked through
        group.release(group.hold(f"aborted-{index}"))
    group.lower(given_up, 100.0)
    back = group.hold("gone")
    assert back is not gone
    group.lift(back, None)
    assert back.count >= 7.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_least_is_found_whatever_becomes_of_the_counts(seed: int) -> None:
    rng = random.Random(seed)
    group: Group = CounterGroup(Counter)
    line: LeastFirst[str, Counter, str] = LeastFirst(group)
    counters = {f"k{index}": group.hold(f"k{index}") for index in range(rng.randint(1, 12))}
    waiting: list[str] = []  # in the order of coming
    for _ in range(300):
        key = rng.choice(sorted(counters))
        match rng.randrange(4):
            case 0 if key not in waiting:
                least = min((counters[each].count for each in waiting), default=None)
                line.add(key, counters[key], key.upper())
                waiting.append(key)
                assert least is None or counters[key].count >= least
            case 1 if key in waiting:
                line.remove(key)
                waiting.remove(key)
            case 2:
                counters[key].count += rng.choice([0.5, 1.0, 7.0])
            case 3 if rng.random() < 0.3:
                group.lower(counters[key], min(counters[key].count, 3.0))
        expected = min(waiting, key=lambda each: counters[each].count, default=None)
        assert line.least() == (None if expected is None else expected.upper())
        assert len(line) == len(waiting)
        assert line.get(key) == (key.upper() if key in waiting else None)
        listed = list(line)
        assert sorted(listed) == sorted(each.upper() for each in waiting)
        assert listed[:1] == ([] if expected is None else [expected.upper()])


def test_a_line_is_listed_from_the_least_on() -> None:
    group: Group = CounterGroup(Counter)
    line: LeastFirst[str, Counter, str] = LeastFirst(group)
    counts = random.Random(2).sample(range(1000), 200)
    counts.sort(key=min(counts).__ne__)  # the least first: nobody is lifted
    for index, count in enumerate(counts):
        counter = group.hold(str(index))
        counter.count = 1000.0 + count
        line.add(str(index), counter, str(count))
    assert list(line) == list(map(str, sorted(counts)))


def test_what_has_left_takes_no_room_for_long() -> None:
    """Entries deep in the heap go with a rebuilding: those that come back again and again."""
    group: Group = CounterGroup(Counter)
    line: LeastFirst[str, Counter, str] = LeastFirst(group)
    line.add("first", group.hold("first"), "first")
    busy = group.hold("busy")
    busy.count = 100.0
    for _ in range(10_000):
        line.add("busy", busy, "busy")
        line.remove("busy")
    assert len(line._heap) < 100
    assert list(line) == ["first"]
