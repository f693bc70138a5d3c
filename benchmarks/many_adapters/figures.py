"""Medians with their spread.

Owns: how repeats are put into a report.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """What a part has found: `figures` stand at the top of the report, `details` behind them."""

    figures: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)


def median(values: Sequence[float]) -> float:
    """Rounded to what can be meant by it."""
    return round(statistics.median(values), 4)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and all repeats."""
    return {
        "median": median(values),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "repeats": [round(value, 4) for value in values],
    }


def p99(values: Sequence[float]) -> float:
    """The 99th percentile, interpolated. At least two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[98]
