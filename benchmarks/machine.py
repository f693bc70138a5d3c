"""What this machine computes with, and how fast it reads memory.

Owns: facts about the machine that need torch; others are in `motet/bench/environment.py`.
Does not know: what is measured on it.
"""

import time

import torch

from motet.kernels.host_memory import zeros_on_huge_pages

_BUFFER_BYTES = 1 << 30  # many times any cache
_NUM_SUMS = 7


def device_name() -> str:
    """The GPU's name, or "cpu": what a server takes unless it is told."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def default_elem_bytes() -> int:
    """Bytes of an element of the pool by default: float32 on a CPU, a 16-bit type on a GPU."""
    return 2 if torch.cuda.is_available() else 4


def read_bandwidth_bytes_per_s() -> float:
    """The best of several sums over a buffer larger than the caches, with all threads.

    On a CPU the buffer lies on huge pages, as weights and pool do.
    """
    if torch.cuda.is_available():
        buffer = torch.ones(_BUFFER_BYTES // 4, dtype=torch.float32, device="cuda")
    else:
        buffer = zeros_on_huge_pages((_BUFFER_BYTES // 4,), torch.float32).fill_(1.0)
    best_s = min(_sum_s(buffer) for _ in range(_NUM_SUMS))
    return _BUFFER_BYTES / best_s


def _sum_s(buffer: torch.Tensor) -> float:
    start_s = time.perf_counter()
    buffer.sum().item()  # .item() waits for a GPU
    return time.perf_counter() - start_s
