"""The `motet` program as a user runs it: real processes, the fake engine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from motet.server.cli import app
from tests.server.conftest import write_adapter
from tests.server.fake_engine import digest_of
from tests.server.running_server import RunningServer, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class ServeProcess:
    """A running `motet serve`."""

    process: subprocess.Popen[str]
    output: Path
    engine_log: Path

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def url(self) -> str:
        match = re.search(r"is ready at (http://\S+)", self.text)
        assert match
        return match[1]

    def engine_pid(self) -> int:
        pid: int = json.loads(self.engine_log.read_text().splitlines()[0])["pid"]
        return pid


@contextmanager
def motet_serve(
    tmp_path: Path, *arguments: str, env: dict[str, str] | None = None
) -> Iterator[ServeProcess]:
    output, engine_log = tmp_path / "output", tmp_path / "engine.jsonl"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.serve_fake", "serve", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "FAKE_LOG": str(engine_log), "COLUMNS": "200", **(env or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
    served = ServeProcess(process, output, engine_log)
    try:
        wait_until(lambda: process.poll() is not None or "List the models" in served.text, 60)
        yield served
    finally:
        process.kill()
        process.wait()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def motet(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.mark.slow
def test_the_banner_has_a_line_that_works(
    model_dir: Path, adapters_dir: Path, tmp_path: Path
) -> None:
    arguments = [str(model_dir), "--port", "0", "--adapter-dir", str(adapters_dir)]
    with motet_serve(tmp_path, *arguments, "--served-model-name", "bass") as served:
        assert "bass (float32 on cpu)" in served.text
        assert "blue, red" in served.text
        assert re.search(r"policy +fcfs\n", served.text)
        curls = [line for line in served.text.splitlines() if line.startswith("curl ")]
        answers = [
            json.loads(subprocess.run(line, shell=True, capture_output=True, check=True).stdout)
            for line in curls
        ]
        assert answers[0]["model"] == "bass"
        assert answers[0]["usage"]["completion_tokens"] == 32
        assert [model["id"] for model in answers[1]["data"]] == ["bass", "blue", "red"]


@pytest.mark.slow
def test_sigterm_lets_running_requests_end_and_then_ends_the_engine(
    model_dir: Path, tmp_path: Path
) -> None:
    env = {"FAKE_STEP_S": "0.02"}
    with motet_serve(tmp_path, str(model_dir), "--port", "0", env=env) as served:
        body = {"model": model_dir.name, "prompt": "ab", "max_tokens": 50, "stream": True}
        with httpx2.stream("POST", f"{served.url}/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert len(rest) == 50
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]
        assert served.process.wait(20) == 0
        assert not is_alive(served.engine_pid())
        last = json.loads(served.engine_log.read_text().splitlines()[-1])
        assert last["kind"] == "Shutdown"


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_drain_ends_in_time_or_at_a_second_signal(
    model_dir: Path, tmp_path: Path, signals: list[signal.Signals]
) -> None:
    timeout = "1" if len(signals) == 1 else "1000"
    env = {"FAKE_STEP_S": "1"}
    arguments = [str(model_dir), "--port", "0", "--drain-timeout", timeout]
    with motet_serve(tmp_path, *arguments, env=env) as served:
        body = {"model": model_dir.name, "prompt": "ab", "max_tokens": 400, "stream": True}
        with httpx2.stream("POST", f"{served.url}/v1/completions", json=body):
            for each in signals:
                served.process.send_signal(each)
                time.sleep(0.5)
            expected = 0 if len(signals) == 1 else 128 + signals[1]
            assert served.process.wait(20) == expected
        assert not is_alive(served.engine_pid())


@pytest.mark.slow
def test_an_engine_does_not_outlive_a_killed_server(model_dir: Path, tmp_path: Path) -> None:
    with motet_serve(tmp_path, str(model_dir), "--port", "0") as served:
        assert is_alive(served.engine_pid())
        served.process.kill()
        served.process.wait()
        wait_until(lambda: not is_alive(served.engine_pid()))


@pytest.mark.slow
def test_keys_come_from_the_environment_and_are_never_printed(
    model_dir: Path, adapters_dir: Path, tmp_path: Path
) -> None:
    env = {"MOTET_API_KEY": "api-secret", "MOTET_ADMIN_KEY": "admin-secret"}
    arguments = [str(model_dir), "--port", "0", "--adapter-root", str(adapters_dir)]
    with motet_serve(tmp_path, *arguments, env=env) as served:
        assert httpx2.get(f"{served.url}/v1/models").status_code == 401
        to_server = ["--url", served.url, "--admin-key"]
        loading = ["adapters", "load", "red", "red", *to_server]
        assert motet(*loading, "api-secret")[0] == 1
        assert motet(*loading, "admin-secret")[0] == 0
        served.process.terminate()
        served.process.wait(20)
        assert "secret" not in served.text
        assert "YOUR_KEY" in served.text
        assert '"action": "adapter.create"' in served.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            [],
            {
                "host_adapter_bytes": None,
                "prefix_cache": True,
                "cuda_graphs": True,
                "eviction_policy": "saving",
                "weights": None,
            },
        ),
        (
            [
                *("--host-adapter-memory", "3GiB", "--no-prefix-cache"),
                *("--share-prefix-cache", "--eviction-policy", "lru", "--no-cuda-graphs"),
                *("--weights", "int8"),
            ],
            {
                "host_adapter_bytes": 3 << 30,
                "prefix_cache": False,
                "cuda_graphs": False,
                "eviction_policy": "lru",
                "weights": "int8",
            },
        ),
    ],
)
def test_options_of_the_engine_reach_it(
    model_dir: Path, tmp_path: Path, arguments: list[str], expected: dict[str, object]
) -> None:
    with motet_serve(tmp_path, str(model_dir), "--port", "0", *arguments) as served:
        config = json.loads(served.engine_log.read_text().splitlines()[0])["config"]
    assert {name: config[name] for name in expected} == expected
    assert config["static_adapter_pages"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "no key is set"),
        (["--pool-memory", "lots"], "'lots' is not a size"),
        (["--host-adapter-memory", "-1GiB"], "'-1GiB' is not a size"),
        (["--adapter", "red"], "NAME=PATH"),
        (["--adapter-dir", "/nowhere/at/all"], "not a directory"),
        (["--adapter", "mine=/nowhere/at/all"], "adapter mine at /nowhere/at/all"),
    ],
)
def test_options_that_cannot_work_are_explained(
    model_dir: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    with motet_serve(tmp_path, str(model_dir), "--port", "0", *arguments) as served:
        assert served.process.wait(20) == 1
        assert "Error: " in served.text
        assert reason in served.text
        assert "Traceback" not in served.text


@pytest.mark.slow
def test_a_taken_port_is_noticed_before_the_model_is_loaded(
    server: RunningServer, model_dir: Path, tmp_path: Path
) -> None:
    port = server.url.rpartition(":")[2]
    with motet_serve(tmp_path, str(model_dir), "--port", port) as served:
        assert served.process.wait(20) == 1
        assert f"Cannot listen on 127.0.0.1 port {port}" in served.text
        assert not served.engine_log.exists()


def test_adapters_of_a_running_server(server: RunningServer, tmp_path: Path) -> None:
    root = server.started.registry.catalogue.get("red").main.path.parent
    write_adapter(root / "green", b"green")
    try:
        where = ("--url", server.url)
        loading = ("adapters", "load", "green")
        for folder, options, version in (
            ("green", (), 1),
            ("red", ("--no-activate",), 2),
            ("red", ("--sha256", digest_of(b"red")), 2),
        ):
            printed = motet(*loading, str(root / folder), *options, *where)
            assert printed == (0, f"green@{version} is ready.\n")
        status, listed = motet("adapters", "list", *where)
        assert status == 0
        assert all(name in listed for name in ("red", "blue", "green", "ready", "pending"))
        for verb, arguments, expected in (
            ("alias", ("1=3", "v2=1"), "green is version 1 (75%), version 2 (25%).\n"),
            ("rollback", (), "green is version 2 (100%) again.\n"),
            ("alias", ("2",), "green is version 2 (100%).\n"),
            ("pin", (), "green is pinned.\n"),
            ("unpin", (), "green is not pinned.\n"),
        ):
            assert motet("adapters", verb, "green", *arguments, *where) == (0, expected)
        for arguments, reason in (
            (("load", "green", "/nowhere"), "not under an allowed adapter root"),
            (("load", "green", "hf:org/name@main"), "not allowed"),
            (("alias", "green", "1=x"), "VERSION=WEIGHT"),
            (("delete", "green@2"), "Point it elsewhere first"),
            (("delete", "nothing"), "cannot be found"),
        ):
            status, refused = motet("adapters", *arguments, *where)
            assert (status, reason in refused) == (1, True), refused
        assert motet("adapters", "delete", "green@1", *where) == (0, "green@1 is deleted.\n")
        assert motet("adapters", "delete", "green", *where) == (0, "green is deleted.\n")
    finally:
        (root / "green" / "weights").unlink()


def test_completing_from_the_command_line(server: RunningServer) -> None:
    where = ("--max-tokens", "5", "--url", server.url)
    assert motet("complete", "abc", *where) == (0, "abcab\n")
    assert motet("complete", "abc", "--model", "red", *where) == (0, "bcabc\n")
    status, refused = motet("complete", "abc", "--model", "green", *where)
    assert status == 1
    assert "'green' does not exist" in refused


def test_no_server_is_a_plain_error() -> None:
    status, output = motet("adapters", "list", "--url", "http://127.0.0.1:9")
    assert status == 1
    assert "Is `motet serve` running there?" in output
