"""Where a run took place: the machine, versions, the state of the code.

Owns: these facts. No names of hosts or users, no paths, no variables.
"""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_GIT_TIMEOUT_S = 10


def describe_machine(*packages: str) -> dict[str, Any]:
    """Cores, architecture, Python, and the versions of these packages."""
    return {
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)),
        "arch": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def describe_client() -> dict[str, Any]:
    """The machine that a run is made from, and what makes it; None is what cannot be told."""
    return {
        **describe_machine("httpx2"),
        "os": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "motet": _motet_version(),
        "revision": _revision(Path(__file__).parent),
    }


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None)


def _motet_version() -> str | None:
    try:
        return version("motet")
    except PackageNotFoundError:  # it runs from a source tree
        return None


def _revision(directory: Path) -> str | None:
    """The commit that the code is of, with "-dirty" if it was changed; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
