"""What is found: checks that hold or do not, and figures beside their floor and their target.

Owns: the two kinds of result, and their form in JSON.
Does not know: what is measured, nor how a table shows it (`table.py`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Check:
    """A kernel beside its float64 reference.

    Attributes:
        worst: the largest error of any element over that element's tolerance; NaN anywhere is
            infinite.
        tolerance: what the tolerance is, in symbols.
    """

    name: str
    worst: float
    tolerance: str

    @property
    def holds(self) -> bool:
        return self.worst <= 1.0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "worst": _finite(self.worst), "holds": self.holds}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Something measured.

    Attributes:
        unit: of all three numbers; empty for a ratio.
        floor: what the value would be if only the bytes that must move counted.
        target: what it should be at most, or at least where `at_least`. None: it is for the record.
        details: whatever it was made from.
    """

    name: str
    value: float
    unit: str = ""
    floor: float | None = None
    target: float | None = None
    at_least: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "value": _finite(self.value), "reached": self.reached}


Result = Check | Figure


def _finite(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if abs(value) < float("inf") else None
