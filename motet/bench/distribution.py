"""A few figures that tell how values are spread.

Owns: which figures, and how a percentile is read between two values.
Does not know: what the values are of.
"""

import msgspec
import numpy as np

from motet.bench.columns import Floats


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """Of values that exist; percentiles are read linearly between the two nearest values."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


def distribution_of(values: Floats) -> Distribution | None:
    """The distribution of all values that are not NaN; None if there are none."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    p50, p90, p99 = (float(value) for value in np.percentile(known, (50, 90, 99)))
    return Distribution(
        count=len(known),
        mean=float(known.mean()),
        p50=p50,
        p90=p90,
        p99=p99,
        max=float(known.max()),
    )
