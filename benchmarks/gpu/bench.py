"""What all parts are given: the plan, the device, its kernels and its bandwidth.

Owns: nothing but the bundle, and what counts as bound by bandwidth.
"""

from dataclasses import dataclass

import torch

from benchmarks.gpu.plan import Plan
from motet.kernels.types import Kernels

# A launch costs about this much by itself, so one that moves less than this is not bound by bytes.
_LAUNCH_S = 3e-6
_BANDWIDTH_TARGET = 0.7


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is measured, and on what.

    Attributes:
        copy_bytes_per_s: read and written by a copy on the device: every floor is over this.
        cache_bytes: of the device's last cache.
        seed: of all that is random.
    """

    plan: Plan
    device: torch.device
    kernels: Kernels
    copy_bytes_per_s: float
    cache_bytes: int
    seed: int

    def floor_s(self, num_bytes: float) -> float:
        """The least time in which so many bytes can be moved."""
        return num_bytes / self.copy_bytes_per_s

    def bandwidth_target(self, num_bytes: float, num_launches: int) -> float | None:
        """The share of the bandwidth that launches should reach, if they are bound by it."""
        is_bound = self.floor_s(num_bytes) / num_launches >= _LAUNCH_S
        return _BANDWIDTH_TARGET if is_bound else None

    def num_copies(self, num_bytes: float) -> int:
        """How many times what moves so many bytes has to be there, so that no cache flatters."""
        return max(1, -(-4 * self.cache_bytes // max(1, int(num_bytes))))
