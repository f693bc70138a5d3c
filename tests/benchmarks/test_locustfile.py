"""The load test as its users run it: `locust`, headless, against a server on loopback."""

import csv
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from motet.bench.named import make_workload
from tests.benchmarks.fake_server import WORDS, FakeServer, running

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


MIX = ("-u", "3", "-r", "10", "-t", "2s")

# Sixty requests within three seconds or so; the fewest tokens that there are.
WORKLOAD = {"rate_per_s": "20", "duration_s": "3", "length_scale": "0.01", "num_adapters": "30"}
ZIPF = ("--workload", "zipf", "--seed", "3", *(f"--param={k}={v}" for k, v in WORKLOAD.items()))


def locust(*arguments: str, api_key: str = "") -> subprocess.CompletedProcess[str]:
    # The program itself, not `python -m`: nothing but the locustfile's folder is importable.
    program = Path(sys.executable).with_name("locust")
    command = [str(program), "-f", "benchmarks/locustfile.py", "--headless", "--only-summary"]
    return subprocess.run(
        [*command, *(() if "--workload" in arguments else MIX), *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "MOTET_API_KEY": api_key},
        check=False,
    )


def test_every_model_gets_rows_for_ttft_itl_and_tokens_per_second(tmp_path: Path) -> None:
    with running(FakeServer(models=("base", "iso-dates"), api_key="k-1")) as server:
        done = locust("--host", server.url, "--csv", str(tmp_path / "out"), api_key="k-1")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(tmp_path)
    for model in ("base", "iso-dates"):
        num_streams = int(rows["POST", model]["Request Count"])
        assert num_streams > 0
        assert int(rows["TTFT", model]["Request Count"]) == num_streams
        assert int(rows["tokens/s", model]["Request Count"]) == num_streams
        assert int(rows["ITL", model]["Request Count"]) == num_streams * (len(WORDS) - 1)
        # A whole stream takes six pauses of 20 ms, the first text one, and the server sleeps no
        # less than it says: locust's own figure would have ended at the headers.
        assert float(rows["POST", model]["Min Response Time"]) >= 6 * 20 - 2
        assert float(rows["TTFT", model]["Min Response Time"]) >= 20 - 2
        assert 0 < float(rows["tokens/s", model]["Max Response Time"]) <= 6 / (6 * 0.02) + 1
    assert "output tokens/s" in done.stdout
    assert all(body["messages"][0]["content"] for body in server.bodies)


def read_rows(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "out_stats.csv").open() as file:
        return {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}


def test_the_mix_says_who_is_asked() -> None:
    with running(FakeServer(models=("base", "a", "b"))) as server:
        done = locust("--host", server.url, "--mix", "a=9,b=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(server.asked) <= {"a", "b"}
    assert server.asked["a"] > server.asked["b"]


def test_a_broken_stream_fails_the_run() -> None:
    with running(FakeServer(models=("broken", "base"))) as server:
        done = locust("--host", server.url)
    assert done.returncode == 1
    assert "engine_dead" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--host", "http://192.0.2.7:8000"], "only runs against this machine"),
        ([], "--host is missing"),
        (["--host", "{url}", "--mix", "nope=1"], "no model nope"),
        (["--host", "{url}", "--mix", "base"], "name=weight"),
        (["--host", "{url}"], "refused the key"),
        (["--host", "http://127.0.0.1:9"], "Cannot start the load test"),
    ],
)
def test_a_run_that_cannot_be_done_says_why(arguments: list[str], complaint: str) -> None:
    api_key = "k-1" if complaint == "refused the key" else None
    with running(FakeServer(models=("base",), api_key=api_key)) as server:
        done = locust(*(argument.format(url=server.url) for argument in arguments))
    assert done.returncode not in (0, None)
    assert complaint in done.stderr
    assert not server.asked


def test_an_open_loop_does_not_wait_for_a_slow_server(tmp_path: Path) -> None:
    # A request takes seconds: one after another they would take minutes.
    with running(FakeServer(models=("base", "a0", "a1"), delay_s=0.5)) as server:
        done = locust(
            *("--host", server.url, *ZIPF, "--loop", "open", "--csv", str(tmp_path / "out")),
            *("--ttft-slo", "30", "--min-attainment", "1"),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(server.bodies) == len(make_workload("zipf", WORKLOAD, 3).requests)
    assert server.asked_at_s[-1] - server.asked_at_s[0] < 0.5 * len(server.bodies) / 2
    assert done.stdout.splitlines()[-1].startswith("First token within 30 s: 100.0%")
    groups = {name for kind, name in read_rows(tmp_path) if kind == "TTFT"}
    assert len(groups) == 11
    assert "other adapters" in groups


def test_two_processes_send_each_request_once_and_are_judged_together(tmp_path: Path) -> None:
    with running(FakeServer(models=("base", "a0", "busy"))) as server:
        done = locust(
            *("--host", server.url, *ZIPF, "--loop", "open", "--csv", str(tmp_path / "out")),
            *("--processes", "2", *free_port(), "--min-attainment", "0.99"),
        )
    workload = make_workload("zipf", WORKLOAD, 3)
    sent = Counter((len(body["prompt"].split()), body["max_tokens"]) for body in server.bodies)
    assert sent == Counter(
        (each.num_prompt_tokens, each.num_output_tokens) for each in workload.requests
    )
    num_refused, num_answered = server.asked["busy"], server.asked["a0"]
    assert num_refused > 0
    assert num_answered > 0
    rows = read_rows(tmp_path)
    assert int(rows["", "Aggregated"]["Request Count"]) == num_answered
    assert done.returncode == 1
    assert f"{num_answered} answered, {num_refused} refused, 0 failed" in done.stdout
    assert f"Missed: {num_answered / len(server.bodies):.1%} of the requests" in done.stdout


def free_port() -> list[str]:
    """For the processes among themselves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    return ["--master-bind-port", port, "--master-port", port]
