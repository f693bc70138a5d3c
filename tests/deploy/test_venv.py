"""deploy/venv.sh installs when it must, only then, and only once at a time.

The interpreter is a stand-in that makes a `.venv` whose own python notes what pip is asked for, so
that nothing is downloaded here. `make test` itself stands on the real thing.
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TORCH = "torch==2.13.0"

# What is installed and what is asked of the interpreter, without either happening.
_PYTHON = """#!/bin/sh
case "$1 $2" in
"-c "*) exit {version_status} ;;
"-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip") shift 2 && echo "$@" >>pip.log && sleep 0.2 ;;
*) exit 99 ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what venv.sh reads, in a folder with a space in its name."""
    directory = tmp_path / "a b"
    (directory / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "venv.sh", directory / "deploy")
    shutil.copy(ROOT / "pyproject.toml", directory)
    write_python(directory / "python", is_new_enough=True)
    return directory


def write_python(path: Path, *, is_new_enough: bool) -> None:
    path.write_text(_PYTHON.format(version_status=0 if is_new_enough else 1))
    path.chmod(0o755)


def run(project: Path, *arguments: str, python: str = "python") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(project / "deploy" / "venv.sh"), *arguments],
        cwd=project.parent,  # it finds its own place
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHON": str(project / python)},
        check=False,
    )


def installs(project: Path) -> list[str]:
    """What pip was asked to install, each as its last argument."""
    log = project / "pip.log"
    return [line.split()[-1] for line in log.read_text().splitlines()] if log.exists() else []


def test_torch_comes_first_at_the_version_of_pyproject(project: Path) -> None:
    assert run(project).returncode == 0
    assert installs(project) == [TORCH, "."]
    assert f'"{TORCH}"' in (project / "pyproject.toml").read_text()


def test_nothing_is_installed_twice(project: Path) -> None:
    run(project, "test")
    before = installs(project)
    assert before == [TORCH, ".[test]"]
    for extra in ([], ["load"], ["test"]):  # the test extra holds the others
        done = run(project, *extra)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert installs(project) == before


def test_a_larger_extra_is_installed_on_top(project: Path) -> None:
    for extra in ([], ["load"], ["test"]):
        assert run(project, *extra).returncode == 0
    assert installs(project) == [TORCH, ".", TORCH, ".[load]", TORCH, ".[test]"]


def test_a_changed_pyproject_is_installed_again(project: Path) -> None:
    run(project)
    with (project / "pyproject.toml").open("a") as file:
        file.write("\n")
    assert run(project).returncode == 0
    assert installs(project) == [TORCH, "."] * 2


def test_a_moved_folder_is_installed_again(project: Path) -> None:
    run(project)
    moved = project.rename(project.with_name("c d"))
    assert run(moved).returncode == 0
    assert installs(moved) == [TORCH, "."] * 2


def test_two_at_once_install_once(project: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: run(project), range(3)))
    assert [each.returncode for each in done] == [0, 0, 0]
    assert installs(project) == [TORCH, "."]


def test_a_failed_install_is_not_taken_for_done(project: Path) -> None:
    healthy = (project / "python").read_text()
    (project / "python").write_text(healthy.replace("sleep 0.2", "false"))
    assert run(project).returncode != 0
    (project / ".venv" / "bin" / "python").write_text(healthy)
    assert run(project).returncode == 0
    assert installs(project) == [TORCH, TORCH, "."]


def test_an_old_interpreter_is_refused_with_advice(project: Path) -> None:
    write_python(project / "old", is_new_enough=False)
    done = run(project, python="old")
    assert done.returncode != 0
    assert "3.11" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (project / ".venv").exists()


def test_an_unknown_extra_is_refused(project: Path) -> None:
    done = run(project, "everything")
    assert done.returncode == 2
    assert "everything" in done.stderr
