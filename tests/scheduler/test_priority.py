"""Who goes first: by priority, a lower number first, then by arrival."""

from tests.scheduler.virtual_engine import VirtualEngine


def test_the_queue_is_by_priority_then_by_arrival() -> None:
    engine = VirtualEngine(40, max_running=1)
    for request_id, priority in [("a", 0), ("late", 7), ("b", 0), ("first", -1), ("c", 0)]:
        engine.add(request_id, 2, 1, priority=priority)
    engine.run_until_done(10)
    assert list(engine.finished) == ["first", "a", "b", "c", "late"]


def test_who_runs_is_not_sent_back_for_one_who_waits() -> None:
    engine = VirtualEngine(4)
    engine.add("plain", 2, 6)
    engine.step()
    engine.add("urgent", 5, 3, priority=-5)
    engine.run_until_done(20)
    assert list(engine.finished) == ["plain", "urgent"]
    assert engine.scheduler.num_preemptions == 0


def test_the_last_in_line_is_preempted_though_it_came_first() -> None:
    engine = VirtualEngine(6)
    engine.add("old", 4, 6, priority=1)
    engine.step()
    engine.add("young", 2, 8)
    engine.run_until_preempted()
    assert not engine.live["old"].is_running
    assert engine.live["young"].is_running
    engine.run_until_done(40)
    assert list(engine.finished) == ["young", "old"]


def test_of_one_number_the_youngest_is_preempted() -> None:
    engine = VirtualEngine(9)
    engine.add("old", 4, 6, priority=3)
    engine.add("young", 4, 6, priority=3)
    engine.add("urgent", 4, 6, priority=2)
    engine.run_until_preempted()
    assert [r for r, p in engine.live.items() if not p.is_running] == ["young"]
    engine.run_until_done(40)


def test_one_that_was_preempted_comes_back_before_those_of_higher_numbers() -> None:
    engine = VirtualEngine(6, max_running=2)
    engine.add("first", 4, 6)
    engine.add("second", 4, 6)
    engine.add("last", 1, 9, priority=1)
    engine.run_until_preempted()
    engine.add("later", 1, 9, priority=1)
    engine.run_until_done(40)
    assert list(engine.finished) == ["first", "second", "last", "later"]


def test_an_adapter_is_brought_in_for_the_first_in_line() -> None:
    """There is room for one of them: the urgent one's comes, though it was asked for later."""
    engine = VirtualEngine(8, {"a": 5, "b": 5}, max_running=1)
    engine.add("plain", 2, 2, "a")
    engine.add("urgent", 2, 2, "b", priority=-1)
    engine.step()
    assert list(engine.loading) == ["b"]
    engine.run_until_done(30)
    assert list(engine.finished) == ["urgent", "plain"]


def test_a_running_sequence_evicts_no_adapter_that_one_before_it_waits_with() -> None:
    engine = VirtualEngine(12, {"cold": 4})
    engine.add("plain", 2, 18)
    engine.step()
    engine.add("urgent", 15, 1, "cold", priority=-1)  # needs the whole pool
    engine.step()
    engine.finish_load("cold")
    engine.run_until_preempted()
    assert engine.residency.is_resident("cold")
    assert not engine.live["plain"].is_running
    engine.run_until_done(40)
    assert list(engine.finished) == ["urgent", "plain"]
    assert engine.residency.num_loads == 1


def test_a_running_sequence_may_evict_an_adapter_that_one_behind_it_waits_with() -> None:
    engine = VirtualEngine(12, {"cold": 4})
    engine.load("cold")
    engine.add("patient", 15, 1, "cold", priority=1)  # needs the whole pool
    engine.add("plain", 2, 18)
    engine.run_until_done(40)
    assert list(engine.finished) == ["plain", "patient"]
    assert engine.scheduler.num_preemptions == 0
    assert engine.residency.num_evictions == 1


def test_a_request_waits_for_as_long_as_lower_numbers_come() -> None:
    engine = VirtualEngine(40, max_running=1)
    engine.add("patient", 2, 1, priority=1)
    for index in range(20):
        engine.add(f"r{index}", 2, 1)
        engine.step()
    assert "patient" in engine.live
    engine.run_until_done(5)


def test_priorities_change_the_order_and_no_token() -> None:
    finished = {}
    for priorities in ([0] * 8, [3, -1, 0, 2, -1, 3, 0, 1]):
        engine = VirtualEngine(14, {"a": 2}, max_step_tokens=10, overlaps=True)
        for index, priority in enumerate(priorities):
            digest = "a" if index % 3 == 0 else None
            engine.add(f"r{index}", 5, 12, digest, priority=priority)
        engine.run_until_done(500)
        assert engine.scheduler.num_preemptions > 0
        finished[priorities[0]] = engine.finished
    assert finished[0] == finished[3]
    assert list(finished[0]) != list(finished[3])
