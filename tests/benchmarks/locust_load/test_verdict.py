"""Counts add up over processes, and what was demanded and missed is said."""

import msgspec
import pytest

from benchmarks.locust_load.tally import Tally
from benchmarks.locust_load.verdict import misses, summary
from tests.benchmarks.locust_load.chosen import settings


def test_counts_of_two_processes_add_up_however_often_they_are_taken() -> None:
    workers = [Tally(), Tally()]
    total = Tally()
    for step in range(6):
        worker = workers[step % 2]
        worker.sent(late_s=0.3 if step == 4 else 0.0, now_s=100.0 + step)
        worker.num_finished += 1
        worker.judge(1.0 if step else None, slo_s=2.0)
        worker.ended(200.0 + step)
        if step % 3 == 0:
            # As it travels: plain values.
            total.add(msgspec.convert(msgspec.to_builtins(worker.take()), Tally))
            assert worker == Tally()
    for worker in workers:
        total.add(worker.take())
    assert total.num_sent == total.num_finished == total.num_judged == 6
    assert total.num_in_time == 5
    assert (total.num_late, total.max_late_s) == (1, 0.3)
    assert (total.started_s, total.ended_s) == (100.0, 205.0)


def test_first_tokens_are_in_time_up_to_what_was_promised() -> None:
    tally = Tally()
    for ttft_s in (0.1, 2.0, 2.001, None):
        tally.judge(ttft_s, slo_s=2.0)
    assert tally.attainment == 0.5
    assert Tally().attainment is None


@pytest.mark.parametrize(
    ("arguments", "missed"),
    [
        ([], ["--max-fail-ratio allows 0.0%"]),
        (["--max-fail-ratio", "0.1"], []),
        (["--max-fail-ratio", "0.1", "--min-attainment", "0.9"], []),
        (["--max-fail-ratio", "0.09", "--min-attainment", "0.91"], ["demands 91.0%", "10.0% of"]),
    ],
)
def test_what_was_missed_is_said(arguments: list[str], missed: list[str]) -> None:
    tally = Tally(num_finished=70, num_refused=20, num_failed=10, num_in_time=90, num_judged=100)
    found = misses(tally, settings(*arguments))
    assert len(found) == len(missed)
    for sentence, part in zip(found, missed, strict=True):
        assert part in sentence


def test_a_load_test_without_an_answer_has_failed() -> None:
    assert misses(Tally(num_sent=3, num_refused=3), settings()) == ["No stream came to its end."]


def test_the_summary_tells_refusals_apart_and_of_a_client_that_was_late() -> None:
    tally = Tally(
        num_sent=10,
        num_finished=6,
        num_refused=3,
        num_cut=1,
        num_output_tokens=60,
        num_in_time=6,
        num_judged=9,
        num_late=2,
        max_late_s=1.5,
        started_s=50.0,
        ended_s=60.0,
    )
    chosen = settings("--workload", "zipf", "--loop", "open", "--ttft-slo", "2")
    text = "\n".join(summary(tally, chosen))
    assert "10 requests in 10.0 s: 6 answered, 3 refused, 0 failed, 1 given up" in text
    assert "6.0 output tokens/s" in text
    assert "within 2 s: 66.7% of 9" in text
    assert "could not keep up: 2 of 10 requests" in text
    assert "1.5 s" in text
