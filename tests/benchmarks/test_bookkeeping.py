"""The measurement of the Python around a step: that it measures what it says."""

import pytest

from benchmarks.bookkeeping import measure_bookkeeping


@pytest.mark.parametrize("num_adapters", [0, 3])
def test_every_part_takes_some_time_and_together_they_are_the_total(num_adapters: int) -> None:
    took = measure_bookkeeping(5, num_adapters, num_steps=40)
    parts = (took.schedule_s, took.launch_s, took.commit_s)
    assert min(parts) > 0
    assert max(parts) < took.total_s < 1
