"""Seconds of a launch with some sizes, or none where they do not do.

Owns: what counts as the same result, and as a launch.
Does not know: which sizes are tried.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import triton
from torch import Tensor

from benchmarks.gpu.lora_tuning.work import Work
from motet.kernels.lora_triton_sizes import ExpandSizes, ShrinkSizes

Sizes = TypeVar("Sizes", ShrinkSizes, ExpandSizes)

Timer = Callable[[Callable[[], object]], float]
"""Seconds of a function that only launches."""

TOLERANCE = 2**-7
"""Of the largest element: one rounding of bfloat16. A wrong tile is wrong by much more."""


class Measure(Generic[Sizes]):
    """Measures sizes of one kernel and class; `wrong` lists those with another result.

    Args:
        work: the kernel and its batches.
        start: sizes whose result is taken as right.
    """

    def __init__(self, work: Work[Sizes], start: Sizes, timer: Timer) -> None:
        self._work: Work[Sizes] = work
        self._expected = work.result(start)
        self._timer = timer
        self.wrong: list[Sizes] = []

    def __call__(self, sizes: Sizes) -> float | None:
        """Seconds of a launch; None where the device cannot hold it, or the result is wrong."""
        try:
            result = self._work.result(sizes)
        except triton.OutOfResources:
            return None
        if not _agree(result, self._expected):
            self.wrong.append(sizes)
            return None
        num_batches = len(self._work.batches.batches)

        def launch_all() -> None:
            for i in range(num_batches):
                self._work.launch(sizes, i)

        return self._timer(launch_all) / num_batches


def _agree(result: Tensor, expected: Tensor) -> bool:
    return bool((result - expected).abs().max() <= TOLERANCE * expected.abs().max())
