"""The load test as its users run it: `locust`, headless, against a server on loopback."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.fake_server import WORDS, FakeServer, running

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def locust(*arguments: str, api_key: str = "") -> subprocess.CompletedProcess[str]:
    # The program itself, not `python -m`: nothing but the locustfile's folder is importable.
    program = Path(sys.executable).with_name("locust")
    command = [str(program), "-f", "benchmarks/locustfile.py", "--headless", "--only-summary"]
    return subprocess.run(
        [*command, "-u", "3", "-r", "10", "-t", "3s", *arguments],
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
    with (tmp_path / "out_stats.csv").open() as file:
        rows = {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}
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
