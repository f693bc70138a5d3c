"""The comparison's figures are right, and the whole program runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.throughput import Plan, report
from tests.benchmarks.tiny import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]


def test_ratios_are_of_medians() -> None:
    speeds = {
        "motet_base": [100.0, 400.0, 200.0],
        "motet_lora": [150.0, 90.0, 160.0],
        "peft": [50.0, 60.0, 10.0],
        "transformers": [80.0, 20.0, 100.0],
    }
    figures = report(Plan(num_threads=2), speeds, 31, "some-model")
    assert figures["motet_base_tok_s"] == 200.0
    assert figures["motet_lora_tok_s"] == 150.0
    assert figures["peft_tok_s"] == 50.0
    assert figures["transformers_tok_s"] == 80.0
    assert figures["vs_peft"] == 3.0
    assert figures["base_vs_transformers"] == 2.5
    assert figures["lora_tax"] == 0.25
    assert figures["vs_peft_by_repeat"] == [3.0, 1.5, 16.0]
    assert figures["same_text_as_peft"] == "31/32"
    json.dumps(figures)


def test_every_request_has_an_adapter_and_ranks_are_mixed() -> None:
    ranks = Plan(num_threads=1).ranks
    assert len(ranks) == 32
    assert {rank: ranks.count(rank) for rank in ranks} == {8: 8, 16: 8, 32: 8, 64: 8}


@pytest.mark.slow
def test_the_program_measures_all_sides_on_the_same_work(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", seed=2)
    command = [sys.executable, "-m", "benchmarks.throughput", "--quick", "--repeats", "2"]
    done = subprocess.run(
        [*command, "--model", str(model_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    for side in ("motet_base", "motet_lora", "peft", "transformers"):
        assert figures[f"{side}_tok_s"] > 0
        assert len(figures["tok_s_by_repeat"][side]) == 2
    assert figures["vs_peft"] > 0
    assert figures["lora_tax"] < 1
    # Both sides multiplied the same adapters in: the greedy answers are the same.
    assert figures["same_text_as_peft"] == "4/4"
