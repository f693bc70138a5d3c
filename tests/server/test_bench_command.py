"""`motet bench` as a user runs it: what it writes, what it says, and its exit status."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.random_adapters import write_adapters
from benchmarks.server_process import MOTET_SERVE, ServerProcess
from motet.bench.record import read_run
from motet.server.cli import app
from tests.bench.scripted_server import ScriptedServer, running, whole
from tests.bench.test_run import refuse, slow
from tests.benchmarks.tiny import write_tiny_model
from tests.server.running_server import wait_until

ROOT = Path(__file__).resolve().parents[2]
SECRET = "sk-do-not-tell"
SMALL = ("--param", "duration_s=0.5", "--param", "rate_per_s=20", "--param", "output_tokens=1,5")


def motet(*arguments: object, **env: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "200", **env})
    return result.exit_code, result.output


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripts = {"red": whole, "blue": whole, "full": refuse}
    with running(ScriptedServer(scripts=scripts, metrics="motet_waiting_requests 1\n")) as server:
        yield server


def all_text(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_run_leaves_a_folder_with_a_report_and_no_key(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--url", server.url, "--out", tmp_path, "--label", "first", "--concurrency", 3]
    checks = ["--model-template", "red", "--fail-below", 1]
    keys = ["--tenant-key", "t=KEY_OF_T", "--api-key", SECRET, f"--metrics-key={SECRET}"]
    arguments = ["run", "zipf", *options, *checks, *SMALL, *keys]
    monkeypatch.setattr(sys, "argv", ["/somewhere/motet", "bench", *map(str, arguments)])
    status, output = motet(*arguments, KEY_OF_T=SECRET + "t")
    assert status == 0, output
    [folder] = tmp_path.iterdir()
    assert folder.name.startswith("zipf-first-")
    assert {path.name for path in folder.iterdir()} == {
        "run.json",
        "workload.jsonl",
        "requests.jsonl",
        "samples.jsonl",
        "summary.json",
        "report.html",
    }
    run = read_run(folder)
    assert len(run.requests) == 10
    assert run.info.is_open_loop is False
    assert run.samples[0].num_waiting == 1
    assert "10: 10 finished" in output
    assert str(folder / "report.html") in output.replace("\n", "")
    command = run.info.settings["command"]
    assert command.startswith("motet bench run zipf --url")
    assert command.endswith("--tenant-key t=KEY_OF_T --api-key '…' '--metrics-key=…'")
    assert set(server.keys) == {f"Bearer {SECRET}"}
    assert SECRET not in all_text(folder) + output


def test_too_few_within_the_slo_is_a_failure(server: ScriptedServer, tmp_path: Path) -> None:
    options = ["--url", server.url, "--out", tmp_path, "--fail-below", 0.9, *SMALL]
    status, output = motet("run", "zipf", *options, "--model-template", "full")
    assert status == 1
    assert "less than 90.0%" in output
    assert len(list(tmp_path.iterdir())) == 1


def test_a_workload_that_was_written_is_played_and_reported_side_by_side(
    server: ScriptedServer, tmp_path: Path
) -> None:
    file, results = tmp_path / "work.jsonl", tmp_path / "results"
    status, output = motet("workloads", "uniform", "--out", file, *SMALL, "--seed", 3)
    assert status == 0, output
    options = ["--url", server.url, "--out", results, "--label", "one", "--no-exact-length"]
    assert motet("run", file, *options)[0] == 0
    [folder] = results.iterdir()
    assert folder.joinpath("workload.jsonl").read_bytes() == file.read_bytes()
    status, output = motet("report", folder, folder)
    assert status == 0, output
    [page] = results.glob("*.html")
    assert output.strip() == str(page)
    assert page.name == f"{folder.name}-and-{folder.name}.html"
    assert "one" in page.read_text()


def test_workloads_are_listed_and_explained() -> None:
    status, output = motet("workloads")
    assert status == 0
    assert "zipf" in output
    status, output = motet("workloads", "zipf")
    assert status == 0
    assert "exponent" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "zipff"], "zipf"),
        (["run", "zipf", "--param", "alpha"], "--param NAME=VALUE"),
        (["run", "zipf", "--param", "seed=1", "--param", "seed=1"], "each name once"),
        (["run", "zipf", "--param", "color=1"], "color"),
        (["run", "zipf", "--url", "nowhere"], "no address"),
        (["run", "zipf", "--url", "http://127.0.0.1:9"], "Is a server running"),
        (["run", "zipf", "--ttft-slo", "0"], "above 0"),
        (["run", "zipf", "--endpoint", "chat", "--prompts", "tokens"], "token ids"),
        (["run", "zipf", "--tenant-key", f"t={SECRET}"], "not the key"),
        (["run", "README.md"], "no workload"),
        (["report", "nowhere"], "nowhere"),
        (["report", "a", "b", "c"], "one or two"),
        (["workloads", "--out", "x"], "name of a workload"),
        (["workloads", "zipff"], "zipf"),
    ],
)
def test_mistakes_are_named(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "results")] if arguments[0] == "run" else []
    status, output = motet(*arguments, *out)
    assert status == 1, output
    assert complaint in output.replace("\n", " ")
    assert "Traceback" not in output
    assert SECRET not in output
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_keys_of_tenants_come_from_files_too(tmp_path: Path, server: ScriptedServer) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    file = tmp_path / "work.jsonl"
    file.write_text(
        '{"format_version":1,"name":"w","seed":1,"parameters":{}}\n'
        '{"index":0,"arrival_s":0,"adapter":"red","num_prompt_tokens":2,"num_output_tokens":2,'
        '"stream":0,"tenant":"t"}\n'
    )
    options = ["--url", server.url, "--out", tmp_path / "results"]
    status, output = motet("run", file, *options, "--tenant-key", f"t={tmp_path / 'key'}")
    assert status == 0, output
    assert server.keys == [f"Bearer {SECRET}"]


def test_without_the_extra_it_says_what_to_install() -> None:
    # None in sys.modules makes an import fail as a missing package does.
    program = (
        "import sys; sys.modules['httpx2'] = None\n"
        "from motet.server.cli import app\n"
        "app(['bench', 'run', 'zipf'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "pip install 'motet[bench]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_what_has_come(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "motet.server.cli", "bench", "run", "zipf", *SMALL]
    with running(ScriptedServer(scripts={"red": slow(3600)})) as server:
        process = subprocess.Popen(
            [*command, "--url", server.url, "--out", str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_until(lambda: len(server.bodies) == 10, 60)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Interrupted" in output
    [folder] = tmp_path.iterdir()
    assert {record.error for record in read_run(folder).requests} == {"interrupted"}
    assert json.loads((folder / "run.json").read_text())["settings"]["interrupted"] is True


@pytest.mark.slow
def test_a_real_server_is_asked_all_that_is_asked(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", seed=4)
    write_adapters(model, tmp_path / "adapters", ranks=(4, 8), seed=5)
    command = [*MOTET_SERVE, str(model), "--adapter-dir", str(tmp_path / "adapters")]
    lengths = ["--param", "prompt_tokens=8,32", "--param", "output_tokens=4,12"]
    size = ["--param", "duration_s=2", "--param", "rate_per_s=10", "--param", "num_adapters=6"]
    out = tmp_path / "results"
    with ServerProcess(command, tmp_path / "log") as server:
        options = ["--url", server.url, "--out", out, *lengths, *size, "--warm-up", 2]
        status, output = motet("run", "zipf", *options, "--prompts", "tokens")
    assert status == 0, output
    [folder] = out.iterdir()
    run = read_run(folder)
    assert len(run.requests) == 20
    assert all(record.is_finished for record in run.requests)
    assert {record.model for record in run.requests} == {"adapter-00-rank-4", "adapter-01-rank-8"}
    assert all(8 <= record.num_prompt_tokens < 32 for record in run.requests)
    assert all(4 <= record.num_output_tokens < 12 for record in run.requests)
    last = run.samples[-1]
    assert last.kv_share is not None
    assert last.num_resident_adapters == 2
