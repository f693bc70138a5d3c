"""The commands of the Dockerfile do what they should; there is no container engine in tests.

Each instruction that runs something is run here as it stands, or is one that other tests run:
`deploy/venv.sh` is tested in `test_venv.py`, and `make test` has used it.
"""

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.benchmarks.fake_server import FakeServer, running

ROOT = Path(__file__).resolve().parents[2]
TEXT = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in TEXT.splitlines()
    if line.strip() and not line.startswith("#")
]


def arguments_of(keyword: str) -> list[str]:
    return [arguments for name, arguments in INSTRUCTIONS if name == keyword]


def as_here(command: list[str]) -> list[str]:
    """The command with this interpreter's programs, as PATH has it in the image."""
    program, *arguments = command
    if program == "python":
        return [sys.executable, *arguments]
    if program == "motet":
        return [sys.executable, "-m", "motet.server.cli", *arguments]
    return command


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        as_here(command),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


def test_nothing_runs_in_the_image_that_is_not_tested() -> None:
    assert arguments_of("RUN") == [
        "apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev "
        "&& rm -rf /var/lib/apt/lists/*",
        "apt-get update && apt-get install --yes --no-install-recommends libgomp1 "
        "&& rm -rf /var/lib/apt/lists/*",
        "useradd --create-home --uid 1000 motet",
        "deploy/venv.sh",
        "python -m motet.models.default_model",
    ]


def test_the_virtual_environment_is_on_the_path() -> None:
    assert "PATH=/app/.venv/bin:" in "".join(arguments_of("ENV"))
    assert arguments_of("WORKDIR") == ["/app"]


def test_it_is_built_for_either_device() -> None:
    stages = {line.split(" AS ")[-1] for line in arguments_of("FROM")}
    assert stages == {"cpu", "cuda", "${DEVICE}"}
    assert "DEVICE=cpu" in arguments_of("ARG")


def test_the_server_does_not_run_as_root() -> None:
    keywords = [keyword for keyword, _ in INSTRUCTIONS]
    assert arguments_of("USER") == ["motet"]
    assert keywords.index("USER") < keywords.index("ENTRYPOINT")


def test_all_that_is_copied_is_there_and_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignore if line.startswith("!")]
    for arguments in arguments_of("COPY"):
        for source in arguments.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch(source, f"{root}*") for root in allowed), source


@pytest.mark.slow
def test_the_default_model_is_fetched() -> None:
    done = run(arguments_of("RUN")[-1].split())
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "config.json").is_file()


def test_without_a_key_the_server_says_why_it_does_not_start() -> None:
    [entrypoint], [default_arguments] = arguments_of("ENTRYPOINT"), arguments_of("CMD")
    done = run([*json.loads(entrypoint), *json.loads(default_arguments)])
    assert done.returncode == 1
    assert "--api-key" in done.stderr


def health_check(server: FakeServer) -> int:
    [healthcheck] = arguments_of("HEALTHCHECK")
    command = json.loads(healthcheck.partition("CMD ")[2])
    return run([*command, str(server.port)]).returncode


def test_the_health_check_follows_the_server() -> None:
    with running(FakeServer(models=())) as server:
        assert health_check(server) == 0
        server.is_healthy = False
        assert health_check(server) == 1
    assert health_check(server) == 1  # nobody listens any more


def test_the_exposed_port_is_the_servers_own() -> None:
    from deploy.healthcheck import DEFAULT_PORT
    from motet.server.config import ServeConfig

    assert arguments_of("EXPOSE") == [str(ServeConfig().port)]
    assert ServeConfig().port == DEFAULT_PORT
