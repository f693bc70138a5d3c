"""Memory for the tests of compiled CPU kernels, poisoned wherever a kernel must not look or write.

Owns: float32 rows that lie apart between NaN, the proof that nothing beside them has changed, and
the bound on the error of a float32 sum.
Does not know: any kernel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numba
import torch
from torch import Tensor

from tests.kernels.fused_cases import bits

GAP = 37
"""Elements before, after and between rows; odd, so that rows begin nowhere in particular."""

HALF_UNIT = 2.0**-24
"""Relative error of one rounding to float32."""


@dataclass(frozen=True)
class Rows:
    """float32 rows with gaps of NaN around them, each NaN of other bits.

    Attributes:
        inner: [num_rows, width], a view with a stride of width + `GAP`.
        memory: all of it, flat.
        before: its bits as they were.
    """

    inner: Tensor
    memory: Tensor
    before: Tensor

    def assert_fences_hold(self) -> None:
        """Bit for bit, nothing outside the rows has changed."""
        is_outside = torch.ones(len(self.memory), dtype=torch.bool)
        is_outside.as_strided(
            self.inner.shape, self.inner.stride(), self.inner.storage_offset()
        ).fill_(False)
        changed = (bits(self.memory) != self.before) & is_outside
        assert not changed.any(), f"elements {changed.nonzero().flatten().tolist()} were written"


def poisoned_rows(num_rows: int, width: int) -> Rows:
    """Rows of NaN."""
    stride = width + GAP
    patterns = 0x7FC00000 + torch.arange(GAP + num_rows * stride, dtype=torch.int32)
    memory = patterns.view(torch.float32)
    inner = memory.as_strided((num_rows, width), (stride, 1), GAP)
    return Rows(inner, memory, patterns.clone())


def rows_of(values: Tensor) -> Rows:
    """Rows that hold values [num_rows, width]."""
    rows = poisoned_rows(*values.shape)
    rows.inner.copy_(values)
    rows.before.copy_(bits(rows.memory))
    return rows


def assert_sums(actual: Tensor, exact: Tensor, magnitude: Tensor, num_terms: int) -> None:
    """Equal to float64 sums, up to the error that float32 sums may have in whatever order.

    |error| <= (num_terms + 2) * 2^-24 * sum of the terms' magnitudes (Higham, "Accuracy and
    Stability of Numerical Algorithms", section 3.1, to first order; 2 for what follows a sum).
    """
    assert actual.shape == exact.shape
    assert actual.dtype == torch.float32
    assert exact.dtype == magnitude.dtype == torch.float64
    error = (actual.double() - exact).abs()
    bound = (num_terms + 2) * HALF_UNIT * magnitude
    is_wrong = ~(error <= bound)  # true for a NaN
    assert not is_wrong.any(), f"wrong at {is_wrong.nonzero()[:5].tolist()}"


@contextmanager
def threads(of_torch: int, of_numba: int) -> Iterator[None]:
    """Numbers of threads: of shares that work is divided into, and of workers."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(of_torch)
    numba.set_num_threads(of_numba)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])


def thread_counts() -> list[tuple[int, int]]:
    """Of torch and of Numba, as far as this machine has them: the first is 1 and 1."""
    return [
        (a, b) for a in (1, 2, 3, 7) for b in range(1, min(3, numba.config.NUMBA_NUM_THREADS) + 1)
    ]
