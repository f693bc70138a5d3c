"""A folder of results is whole under its name, or is not there."""

from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from motet.bench.measures import Summary
from motet.bench.record import RequestRecord, Run, RunInfo, Sample, Slo, read_run
from motet.bench.results import results_folder, write_results
from motet.bench.workload import read_workload
from tests.bench.work import work, workload_of

AT = datetime(2031, 5, 9, 12, 30, 1)


def some_run() -> Run:
    info = RunInfo(
        label="l",
        target="http://a",
        workload="made-up",
        seed=1,
        is_open_loop=True,
        slo=Slo(),
        started_at="2031-05-09T12:30:01+00:00",
        wall_s=1.0,
        settings={},
        environment={},
    )
    record = RequestRecord(
        index=0, adapter="a", model="m", sent_s=0, piece_times_s=[0.5], ended_s=0.6
    )
    return Run(info=info, requests=[record], samples=[Sample(at_s=0.5, num_running=1.0)])


def names(root: Path) -> list[str]:
    return sorted(each.name for each in root.iterdir())


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there"
    workload = workload_of([work(0, "a")])
    with results_folder(root, "made-up", "a label/..", AT) as (folder, final):
        assert not final.exists()
        summary = write_results(folder, workload, some_run())
    assert final == root / "made_up-a_label-20310509-123001"
    assert names(root) == [final.name]
    assert read_run(final) == some_run()
    assert read_workload(final / "workload.jsonl") == workload
    read = msgspec.json.decode((final / "summary.json").read_bytes(), type=Summary)
    assert read.attainment == summary.attainment == 1.0


def test_two_runs_in_a_second_have_two_folders(tmp_path: Path) -> None:
    with (
        results_folder(tmp_path, "w", "l", AT) as (_, first),
        results_folder(tmp_path, "w", "l", AT) as (_, second),
    ):
        pass
    with results_folder(tmp_path, "w", "l", AT) as (_, third):
        pass
    assert names(tmp_path) == sorted([first.name, second.name, third.name])


def test_a_run_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), results_folder(tmp_path, "w", "l", AT):
        raise RuntimeError
    assert names(tmp_path) == []


def test_what_was_written_before_an_error_stays_under_another_name(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with results_folder(tmp_path, "w", "l", AT) as (folder, _):
            (folder / "requests.jsonl").write_text("dear")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    [name] = names(tmp_path)
    assert name.endswith(".unfinished")
    assert (tmp_path / name / "requests.jsonl").read_text() == "dear"


def test_a_place_that_cannot_be_written_to_is_found_out_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), results_folder(tmp_path / "file", "w", "l", AT):
        raise AssertionError("it went on")
