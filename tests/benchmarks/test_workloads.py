"""The program lists, summarises and writes workloads, and says what was wrong."""

import json
from pathlib import Path

import pytest

from benchmarks.workloads import main
from motet.bench.named import WORKLOADS, make_workload
from motet.bench.workload import read_workload


def test_without_a_name_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(WORKLOADS)


def test_a_workload_is_written_and_summarised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "workload.jsonl"
    main(["punica-identical", "rate_per_s=4", "cv=0", "--seed", "3", "--out", str(path)])
    workload = make_workload("punica-identical", {"rate_per_s": 4, "cv": 0}, 3)
    assert read_workload(path) == workload
    summary = json.loads(capsys.readouterr().out)
    assert summary["num_requests"] == 1200
    assert summary["requests_per_s"] == 4
    assert summary["num_adapters"] == 1
    assert summary["num_tenants"] == 0
    assert summary["share_of_most_popular_adapter"] == 1
    prompts = [request.num_prompt_tokens for request in workload.requests]
    assert summary["mean_prompt_tokens"] == pytest.approx(sum(prompts) / 1200, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zip"], "no workload 'zip'"),
        (["zipf", "cv"], "expected key=value"),
        (["zipf", "cv=x"], "cv of workload zipf is 'x'"),
        (["replay", "path=/nowhere/at/all"], "No such file"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
