"""Arrays of a run made into the few points that a plot needs.

Owns: bins, distribution curves, and thinning. All of it is the same for the same arrays.
Does not know: matplotlib.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from motet.bench.columns import Bools, Columns, Floats
from motet.bench.record import RequestRecord

NUM_BINS = 60
MAX_CURVE_POINTS = 300


def thin_indices(count: int, limit: int) -> npt.NDArray[np.int64]:
    """At most `limit` of the indices below `count`, evenly spaced, the first and the last among
    them.
    """
    if count <= limit:
        return np.arange(count)
    return np.round(np.linspace(0, count - 1, limit)).astype(np.int64)


def bin_edges(end_s: float) -> Floats:
    """Edges of at most `NUM_BINS` bins from 0 to `end_s` or later, 1, 2 or 5 times a power of ten
    wide.
    """
    least_s = max(end_s, 1e-3) / NUM_BINS
    power = 10.0 ** math.floor(math.log10(least_s))
    width_s = next(step * power for step in (1, 2, 5, 10) if step * power >= least_s * 0.999999)
    num_bins = max(1, math.ceil(end_s / width_s - 1e-9))
    return np.arange(num_bins + 1, dtype=np.float64) * width_s


def rates(times_s: Floats, edges_s: Floats, weights: Floats | None = None) -> Floats:
    """How much came in each bin, a second."""
    counts, _ = np.histogram(times_s, bins=edges_s, weights=weights)
    rates_per_s: Floats = counts / np.diff(edges_s)
    return rates_per_s


def shares(times_s: Floats, is_good: Bools, edges_s: Floats) -> Floats:
    """The share of good ones in each bin; NaN for an empty bin."""
    counts, _ = np.histogram(times_s, bins=edges_s)
    good, _ = np.histogram(times_s[is_good], bins=edges_s)
    of_each = np.full(len(counts), np.nan)
    np.divide(good, counts, out=of_each, where=counts > 0)
    return of_each


def tokens_over_time(requests: Sequence[RequestRecord]) -> tuple[Floats, Floats]:
    """When each piece came, and how many tokens it stands for: its request's, evenly divided."""
    with_pieces = [each for each in requests if each.piece_times_s]
    times = [np.asarray(each.piece_times_s, dtype=np.float64) for each in with_pieces]
    tokens = [
        np.full(len(each.piece_times_s), each.num_output_tokens / len(each.piece_times_s))
        for each in with_pieces
    ]
    nothing = np.empty(0)
    return np.concatenate([nothing, *times]), np.concatenate([nothing, *tokens])


def distribution_curve(values: Floats, total: int | None = None) -> tuple[Floats, Floats]:
    """Values in order, and the share of `total` (all values, if not given) that is not above each.

    NaN count in no `values`, but may in `total`. At most `MAX_CURVE_POINTS` points.
    """
    ordered = np.sort(values[~np.isnan(values)])
    kept = thin_indices(len(ordered), MAX_CURVE_POINTS)
    return ordered[kept], (kept + 1) / (len(ordered) if total is None else total)


def lorenz_curve(values: Floats) -> tuple[Floats, Floats]:
    """Shares of those who have the least, from 0 to 1, and the share of all that they have."""
    ordered = np.sort(values)
    had = np.concatenate([[0.0], np.cumsum(ordered)]) / ordered.sum()
    kept = thin_indices(len(had), MAX_CURVE_POINTS)
    return kept / len(ordered), had[kept]


def in_time_order(columns: Columns) -> npt.NDArray[np.int64]:
    """Indices of requests by when they were sent."""
    return np.argsort(columns.sent_s, kind="stable")
