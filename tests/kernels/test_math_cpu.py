"""Functions of one number, against float64."""

import numpy as np
from numpy.typing import NDArray

from motet.kernels.compiled import FASTMATH, compiled
from motet.kernels.math_cpu import exp2


@compiled(fastmath=FASTMATH)
def exp2_of_all(x: NDArray[np.float32]) -> NDArray[np.float32]:
    y = np.empty_like(x)
    for i in range(len(x)):
        y[i] = exp2(x[i])
    return y


def test_exp2_is_as_exact_as_it_says() -> None:
    rng = np.random.default_rng(1)
    whole = np.arange(-126, 1)
    halves = whole[:-1] + 0.5
    beside = [
        np.nextafter(np.float32(n), side) for n in (*whole[1:-1], *halves) for side in (-1e9, 0)
    ]
    near_zero = -np.logspace(-30, 0, 1000)
    parts = [whole, halves, beside, near_zero, rng.uniform(-126, 0, 100_000)]
    x = np.concatenate(parts).astype(np.float32)
    exact = np.exp2(x.astype(np.float64))
    assert (np.abs(exp2_of_all(x) - exact) <= 3e-7 * exact).all()


def test_exp2_at_its_ends() -> None:
    below = np.nextafter(np.float32(-126), np.float32(-1000))
    x = np.array([0.0, -0.0, -1.0, -126.0, below, -150.0, -1e30, -np.inf], np.float32)
    expected = np.array([1.0, 1.0, 0.5, 2.0**-126, 0.0, 0.0, 0.0, 0.0], np.float32)
    np.testing.assert_array_equal(exp2_of_all(x), expected)


def test_exp2_of_a_nan_is_one_and_changes_no_other() -> None:
    x = np.linspace(-100, 0, 67, dtype=np.float32)
    clean = exp2_of_all(x)
    x[[0, 40, 66]] = np.nan
    y = exp2_of_all(x)
    assert np.isnan(y[[0, 40, 66]]).all()
    others = ~np.isnan(x)
    np.testing.assert_array_equal(y[others], clean[others])
