"""The benchmark of the scheduler: it does the work that it says, whatever the policy."""

from benchmarks.scheduler import Load, measure, report


def test_the_work_depends_on_neither_the_number_of_adapters_nor_the_clock() -> None:
    load = Load(num_waiting=40, max_running=8, num_steps=60, num_adapters=600)
    outcome = measure(load)
    assert outcome.num_scheduled > 60 * 4
    assert outcome.num_ended > 0
    more = measure(Load(num_waiting=40, max_running=8, num_steps=60, num_adapters=2_000))
    assert (more.num_scheduled, more.num_ended) == (outcome.num_scheduled, outcome.num_ended)


def test_the_report_has_the_figures() -> None:
    figures = report(Load(num_waiting=20, max_running=4, num_steps=60, num_adapters=600), 1)
    for name in ("sequences_per_s", "whole_sequences_per_s", "cost_ratio_100k_adapters"):
        value = figures[name]
        assert isinstance(value, int | float)
        assert value > 0
