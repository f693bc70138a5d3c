"""What a result means, how it is written, and what the table says of it."""

import json
import math

import pytest

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.plans import TINY
from benchmarks.gpu.results import Check, Figure
from benchmarks.gpu.table import table


@pytest.mark.parametrize(
    ("value", "target", "at_least", "reached"),
    [
        (0.8, 0.75, True, True),
        (0.7, 0.75, True, False),
        (0.05, 0.09, False, True),
        (0.10, 0.09, False, False),
        (0.5, None, True, None),
    ],
)
def test_targets(value: float, target: float | None, at_least: bool, reached: bool | None) -> None:
    figure = Figure(name="x", value=value, target=target, at_least=at_least)
    assert figure.reached is reached
    assert figure.as_json()["reached"] is reached


@pytest.mark.parametrize(("worst", "holds"), [(0.0, True), (1.0, True), (1.01, False)])
def test_a_check_holds_within_its_tolerance(worst: float, holds: bool) -> None:
    assert Check(name="x", worst=worst, tolerance="u |y|").holds is holds


def test_an_infinite_error_is_wrong_and_is_json() -> None:
    check = Check(name="x", worst=math.inf, tolerance="u |y|").as_json()
    assert check["holds"] is False
    assert json.loads(json.dumps(check, allow_nan=False))["worst"] is None


def test_only_what_is_bound_by_bandwidth_has_a_bandwidth_target(bench_of_1_tb: Bench) -> None:
    # A microsecond is a megabyte; a launch costs 3 of them.
    assert bench_of_1_tb.bandwidth_target(100e6, num_launches=10) == 0.7
    assert bench_of_1_tb.bandwidth_target(100e6, num_launches=100) is None
    assert bench_of_1_tb.floor_s(2e12) == 2.0
    # 50 MB of cache are to be overrun four times.
    assert bench_of_1_tb.num_copies(84e6) == 3
    assert bench_of_1_tb.num_copies(1e9) == 1


@pytest.fixture
def bench_of_1_tb() -> Bench:
    import torch

    from benchmarks.gpu.options import plain_kernels

    return Bench(
        plan=TINY,
        device=torch.device("cpu"),
        kernels=plain_kernels(),
        copy_bytes_per_s=1e12,
        cache_bytes=50_000_000,
        seed=0,
    )


def test_the_table_says_what_is_wrong_missed_failed_and_left_out() -> None:
    results = [
        Check(name="shrink", worst=math.inf, tolerance="").as_json(),
        Check(name="expand", worst=0.25, tolerance="").as_json(),
    ]
    figures = [
        Figure(name="tax", value=0.3, floor=0.17, target=0.22).as_json(),
        Figure(name="share", value=0.8, floor=1.0, target=0.75, at_least=True).as_json(),
    ]
    report = {
        "plan": "some shape",
        "dtype": "bfloat16",
        "machine": {"device": {"name": "H100"}, "torch": "2", "triton": "3", "python": "3.12"},
        "copy_gb_per_s": 2900.0,
        "commit": "abcdef0123456789",
        "date": "2026-01-01",
        "seconds": 12.0,
        "is_correct": False,
        "targets_reached": ["share"],
        "targets_missed": ["tax"],
        "parts": {
            "checks": {
                "seconds": 1.0,
                "checks": results,
                "figures": figures,
                "errors": {"bad": "Traceback\n  ...\nValueError: no such thing\n"},
                "left_out": ["late"],
            }
        },
    }
    lines = {line.split("  ")[1]: line for line in table(report).splitlines() if "  " in line}
    assert lines["shrink"].endswith("WRONG")
    assert "inf of the tolerance" in lines["shrink"]
    assert lines["expand"].endswith("ok")
    assert lines["tax"].endswith("MISSED")
    assert "<= 0.220" in lines["tax"]
    assert lines["share"].endswith("reached")
    text = table(report)
    assert "failed: bad: ValueError: no such thing" in text
    assert "left out, no time: late" in text
    assert "CORRECTNESS DOES NOT HOLD; 1 of 2 targets reached; 1 failed, 1 left out" in text
