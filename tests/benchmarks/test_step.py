"""The figures of a step are right, and the whole program runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.step import Plan, report

ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan(num_seqs=2, num_many_seqs=4, num_repeats=3)
TIMES_MS = {
    "one": [2.0, 4.0, 3.0],
    "one_int8": [1.0, 1.0, 1.5],
    "base": [10.0, 10.0, 20.0],
    "idle": [10.0, 11.0, 20.0],
    "shared": [11.0, 10.5, 21.0],
    "distinct": [14.0, 16.0, 24.0],
}


def test_ratios_are_of_one_repeat_each_and_their_median_is_taken() -> None:
    times = {name: [value / 1e3 for value in values] for name, values in TIMES_MS.items()}
    products = {"packed": [0.008, 0.005, 0.010], "onednn": [0.005, 0.008, 0.020]}
    figures = report(PLAN, times, [100e3, 100e3, 50e3], products, 200, 400)
    assert figures["b1_over_bytes"] == 1.0  # of 2 / 2, 4 / 2, 3 / 4
    assert figures["spread"]["b1_over_bytes"] == [0.75, 2.0]
    assert figures["int8_over_float32"] == 0.5
    assert figures["b32_over_matmul"] == 2.0  # over the faster form of each repeat
    assert figures["lora_over_bytes"] == 1.0  # of 4 / 4, 6 / 4, 4 / 8
    assert figures["shared_adapter_tax"] == 0.05
    assert figures["idle_tax"] == 0.0
    assert 0 < figures["python_share"] < 1
    assert figures["python_ms_256"] > 0


@pytest.mark.slow
def test_the_program_runs_to_its_last_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", "--quick", "--no-peer"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    for name in (
        "b1_over_bytes",
        "int8_over_float32",
        "b32_over_matmul",
        "lora_over_bytes",
        "shared_adapter_tax",
        "idle_tax",
        "python_share",
        "python_ms_256",
    ):
        assert isinstance(figures[name], float)
