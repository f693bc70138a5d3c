"""A case that fails, or for which there is no time, is recorded, and the rest goes on."""

from collections.abc import Iterator, Sequence

from benchmarks.gpu.parts import Case, Part, PartReport, run_parts
from benchmarks.gpu.results import Figure, Result


class Clock:
    """Time that passes when a case says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def case(self, name: str, seconds: float) -> Case:
        def run() -> Sequence[Result]:
            self.now_s += seconds
            return [Figure(name=name, value=seconds)]

        return Case(name, run)


def fail() -> Sequence[Result]:
    raise ValueError("no such thing")


def run(parts: Sequence[Part], budget_s: float, clock: Clock) -> list[PartReport]:
    return list(run_parts(parts, budget_s, lambda line: None, clock))


def names(report: PartReport) -> list[str]:
    return [figure.name for figure in report.figures]


def test_a_failing_case_leaves_its_traceback_and_the_others_run() -> None:
    clock = Clock()
    cases = [clock.case("one", 1), Case("bad", fail), clock.case("two", 2)]
    (report,) = run([Part("part", 1.0, lambda: iter(cases))], 10, clock)
    assert names(report) == ["one", "two"]
    assert list(report.errors) == ["bad"]
    assert "ValueError: no such thing" in report.errors["bad"]
    assert not report.is_whole
    assert report.seconds == 3


def test_a_part_that_fails_keeps_what_it_had_and_the_next_part_runs() -> None:
    clock = Clock()

    def cases() -> Iterator[Case]:
        yield clock.case("one", 1)
        raise MemoryError("no room for an engine")

    first, second = run(
        [Part("first", 1.0, cases), Part("second", 1.0, lambda: iter([clock.case("two", 1)]))],
        10,
        clock,
    )
    assert names(first) == ["one"]
    assert "no room for an engine" in first.errors["first"]
    assert names(second) == ["two"]
    assert second.is_whole


def test_cases_after_the_time_of_a_part_are_left_out_by_name() -> None:
    clock = Clock()
    cases = [clock.case(str(i), 4) for i in range(4)]
    (report,) = run([Part("part", 1.0, lambda: iter(cases))], 7, clock)
    assert names(report) == ["0", "1"]  # one that has begun is not cut short
    assert report.left_out == ["2", "3"]
    assert not report.is_whole


def test_shares_are_of_the_budget_and_what_is_left_over_passes_on() -> None:
    clock = Clock()
    short = Part("short", 1.0, lambda: iter([clock.case("short", 1)]))
    long = Part("long", 3.0, lambda: iter([clock.case(str(i), 9) for i in range(9)]))
    _, report = run([short, long], 40, clock)
    # 10 s and 30 s; the first takes 1 of its 10, so the second has 39.
    assert names(report) == ["0", "1", "2", "3", "4"]
    assert len(report.left_out) == 4


def test_a_part_lets_go_of_what_it_holds_though_its_time_is_over() -> None:
    clock = Clock()
    released = []

    def cases() -> Iterator[Case]:
        try:
            yield clock.case("one", 99)
            yield clock.case("two", 1)
        finally:
            released.append(True)

    (report,) = run([Part("part", 1.0, cases)], 1, clock)
    assert report.left_out == ["two"]
    assert released
