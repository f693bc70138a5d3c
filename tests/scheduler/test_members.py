"""Sequences of several adapters: admitted as one, and never for ever in each other's way."""

from tests.scheduler.virtual_engine import VirtualEngine


def test_a_set_runs_when_the_last_of_its_members_has_come() -> None:
    engine = VirtualEngine(20, {"a": 2, "b": 3, "c": 1})
    engine.register_set("set", 1, experts=("a", "b"), shared=("c",))
    engine.add("r", 4, 2, "set")
    engine.step()
    assert {*engine.loading} == {"set", "a", "b", "c"}
    for digest in ("b", "set", "c"):
        engine.finish_load(digest)
        engine.step()
        assert engine.scheduler.num_running == 0
    engine.finish_load("a")
    engine.run_until_done(10)
    assert (engine.scheduler.num_adapter_hits, engine.scheduler.num_adapter_misses) == (0, 1)


def test_nothing_is_copied_for_a_set_that_does_not_fit_yet() -> None:
    engine = VirtualEngine(12, {"a": 4, "b": 4}, max_running=4)
    engine.register_set("set", 1, experts=("a", "b"))
    engine.add("long", 8, 4)
    engine.step()
    engine.add("set", 2, 1, "set")
    assert engine.pool.num_free >= 4  # enough for one of them
    engine.step()
    assert not engine.loading
    engine.run_until_done(30)


def test_two_sets_that_do_not_fit_together_take_turns() -> None:
    engine = VirtualEngine(11, {"a": 3, "b": 3, "c": 3, "d": 3}, max_running=4)
    engine.register_set("one", 1, experts=("a", "b"))
    engine.register_set("two", 1, experts=("c", "d"))
    for index in range(6):
        engine.add(f"r{index}", 3, 2, ("one", "two")[index % 2])
    engine.run_until_done(80)


def test_a_member_that_lies_in_the_way_of_another_moves() -> None:
    """No stretch of the row table is long enough beside it, though all of them would fit."""
    engine = VirtualEngine(6, {"x": 2, "a": 1, "b": 4})
    engine.load("x", "a")  # rows of x, then of a
    engine.forget("x")
    engine.add("r", 1, 1, parts={"a": 0.5, "b": 0.25})
    engine.run_until_done(12)


def test_a_set_is_read_piece_by_piece_into_little_host_memory() -> None:
    engine = VirtualEngine(20, {"a": 4, "b": 4, "c": 4}, host_budget_pages=4)
    engine.register_set("set", 1, experts=("a", "b", "c"))
    engine.add("r", 4, 2, "set")
    engine.run_until_done(20)


def test_an_adapter_of_several_requests_is_used_once_by_each() -> None:
    engine = VirtualEngine(20, {"a": 1, "b": 1})
    engine.register_set("set", 1, experts=("a", "a"), shared=("a",))
    engine.add("plain", 2, 4, "a")
    engine.add("sum", 2, 4, parts={"a": 0.5, "b": 2.0})
    engine.add("set", 2, 4, "set")
    engine.step()
    engine.finish_loads()
    engine.step()
    assert engine.residency.num_users("a") == 3
    assert engine.scheduler.abort_adapter("b") == []  # it runs
    engine.run_until_done(20)


def test_an_adapter_that_cannot_come_fails_all_that_wait_for_it() -> None:
    engine = VirtualEngine(20, {"a": 1, "b": 1})
    engine.register_set("set", 1, experts=("a", "b"))
    engine.add("sum", 2, 4, parts={"a": 0.5, "b": 2.0})
    engine.add("set", 2, 4, "set")
    engine.add("other", 2, 4, "a")
    engine.step()
    engine.fail_load("b")
    assert {*engine.live} == {"other"}
    engine.run_until_done(20)
