"""What the program refuses before it starts anything, and that a trial cut short does not count."""

from pathlib import Path

import pytest

from benchmarks.ablations import lab as lab_module
from benchmarks.ablations.__main__ import main
from benchmarks.ablations.lab import Lab, scaled
from benchmarks.ablations.parts import QUICK, Size, parts
from benchmarks.ablations.plan import Trial
from motet.bench.named import find_workload
from motet.bench.record import Run
from tests.bench.runs import run_of
from tests.benchmarks.tiny import write_tiny_model


def test_results_do_not_go_where_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
    assert "--out has to be a new folder" in capsys.readouterr().err


def test_no_repeat_is_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--repeats", "0", "--out", str(tmp_path / "new")])
    assert "--repeats is 0" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("size", [Size(), QUICK])
def test_workloads_and_names_of_all_trials_are_right(size: Size) -> None:
    for part in parts(size):
        assert len({trial.name for trial in part.trials}) == len(part.trials) >= 2
        for trial in part.trials:
            find_workload(trial.workload).spec(scaled(trial, capacity_per_s=10.0))


def test_an_interrupted_trial_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Run:
        return run_of([], settings={"interrupted": True})

    class NoServer:
        url = "http://127.0.0.1:9"

    monkeypatch.setattr(lab_module, "run_workload", interrupted)
    monkeypatch.setattr(Lab, "_server", lambda *_: NoServer())
    model = write_tiny_model(tmp_path / "model", seed=1)
    lab = Lab(model, 8, tmp_path, tmp_path / "results", print)
    with pytest.raises(KeyboardInterrupt):
        lab.run("part", Trial(name="t", parameters={"duration_s": 5.0}, load=None), 1, 1.0)
    assert not (tmp_path / "results").exists()
