"""Every comparison at a tiny size: it runs, and its table is whole. Nothing is said of figures."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import simulate as program
from benchmarks.simulator.comparisons import COMPARISONS
from benchmarks.simulator.comparisons.sizes import thirds
from benchmarks.simulator.lab import Lab
from motet.bench.record import RequestRecord, read_run
from motet.bench.workload import read_workload

TINY = 0.02  # of the published durations


_SLOW = "seventy"  # it makes 100,000 adapters known, several times


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow if each == _SLOW else ()) for each in COMPARISONS],
)
def test_a_comparison_runs_and_tells_whole_rows(name: str) -> None:
    said: list[str] = []
    table = COMPARISONS[name](Lab(TINY, said.append))
    assert len(said) >= len(table.rows) > 0
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert all(value >= 0 for row in table.rows for value in row if isinstance(value, float))
    assert table.claims
    json.dumps(table.figures())


def test_the_program_ends_with_one_object_and_keeps_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["simulate", "merging", "--scale", str(TINY), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    program.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("### Requests/s: merge-and-swap")
    figures = json.loads(lines[-1])
    assert list(figures) == ["merging"]
    folders = sorted((tmp_path / "merging").iterdir())
    assert len(folders) == 6
    for folder in folders:
        run, asked = read_run(folder), read_workload(folder / "workload.jsonl")
        assert [record.index for record in run.requests] == [r.index for r in asked.requests]
        assert run.info.wall_s == max(record.ended_s for record in run.requests)
        assert run.samples


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["magic"], "there is no magic; choose from early-abort"),
        (["--scale", "0"], "give more than 0, and 1 at most"),
        (["--scale", "2"], "give more than 0, and 1 at most"),
        (["--scale", "nan"], "give more than 0, and 1 at most"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["simulate", *arguments])
    with pytest.raises(SystemExit):
        program.main()
    assert expected in capsys.readouterr().err


def test_thirds_go_by_size_and_lose_nobody() -> None:
    records = [
        RequestRecord(
            index=index,
            adapter=None,
            model="base",
            sent_s=0.0,
            ended_s=1.0,
            num_prompt_tokens=size,
            num_output_tokens=1,
        )
        for index, size in enumerate([5, 1, 4, 2, 3, 6, 7])
    ]
    sizes = [[r.num_prompt_tokens for r in third] for third in thirds(records)]
    assert sizes == [[1, 2, 3], [4, 5, 6], [7]]
