"""What this machine is, and how fast its device copies memory.

Owns: facts about machine and commit that the report carries, and the bandwidth under every floor.
Does not know: what is measured on it.
"""

import platform
import statistics
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.timing import device_times_s

_ROOT = Path(__file__).resolve().parents[2]
_NUM_ROUNDS = 11


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The device's name and sizes, the host, and the versions of what runs."""
    return {
        "device": _describe_device(device),
        "arch": platform.machine(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        **{name: _version(name) for name in ("torch", "triton", "numpy")},
    }


def commit() -> str:
    """The commit of this working tree, with a + if files differ from it; "unknown" without git."""
    try:
        name = _git("rev-parse", "HEAD")
        return name + "+" if _git("status", "--porcelain", "--untracked-files=no") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def copy_bytes_per_s(device: torch.device, num_bytes: int) -> float:
    """Bytes read and bytes written per second by a copy within the device's memory, the median.

    Args:
        num_bytes: size of the copy, many times the caches.
    """
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times_s = device_times_s(lambda: target.copy_(source), device, _NUM_ROUNDS)
    return 2 * num_bytes / statistics.median(times_s)


def cache_bytes(device: torch.device) -> int:
    """The device's last cache; on a CPU, which only tries the program, one that is full at once."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def _describe_device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "num_sms": properties.multi_processor_count,
        "cache_bytes": properties.L2_cache_size,
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
