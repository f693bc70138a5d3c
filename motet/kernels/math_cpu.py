"""Functions of one number, made of operations that LLVM vectorizes.

Owns: their accuracy.
Does not know: the loops around them.
"""

from typing import Any

import numpy as np

from motet.kernels.compiled import FASTMATH, compiled

LOG2_E = np.float32(1.4426950408889634)


@compiled(fastmath=FASTMATH)
def exp2(x: Any) -> Any:
    """2 ** x for x <= 0, to 3e-7 relative; 0 below the smallest normal number; NaN of a NaN.

    Splits x into an integer, which becomes the exponent's bits, and a rest within half of zero,
    for which the Taylor series of degree 6 is enough.
    """
    whole = np.int32(x - np.float32(0.5))
    rest = x - np.float32(whole)
    series = np.float32(1.5403530e-4)
    series = series * rest + np.float32(1.3333558e-3)
    series = series * rest + np.float32(9.6181291e-3)
    series = series * rest + np.float32(5.5504109e-2)
    series = series * rest + np.float32(2.4022651e-1)
    series = series * rest + np.float32(6.9314718e-1)
    series = series * rest + np.float32(1.0)
    power = np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(0.0) if x < np.float32(-126.0) else series * power
