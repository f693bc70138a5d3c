"""The phases are compared by the tails of their latencies."""

import pytest

from benchmarks.many_adapters.cold_load import _report


def test_ratios_are_of_each_repeat_and_of_all() -> None:
    calm, rough = [1.0] * 100, [1.0] * 90 + [3.0] * 10
    report = _report({"resident": [calm, calm, calm], "cold": [rough, calm, rough]}, {})
    assert report.figures == {"cold_load_itl_p99_ratio": pytest.approx(3.0)}
    assert report.details["p99_ratio"]["repeats"] == pytest.approx([3.0, 1.0, 3.0])
    assert report.details["median_ratio"]["median"] == 1.0
    assert report.details["p99_ratio_all_repeats"] == pytest.approx(3.0)
