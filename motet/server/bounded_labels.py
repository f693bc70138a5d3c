"""Bounds on the values of a metric's label: each is a time series for ever.

Owns: which values keep their name.
Does not know: what they name.
"""

from __future__ import annotations

OTHER = "_other"


class BoundedLabels:
    """The first label values keep their name, all others share one.

    Attributes:
        values: all that were ever given out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.values: set[str] = set()

    def of(self, label: str) -> str:
        """The value to use for `label`."""
        if label not in self.values:
            if len(self.values) >= self._limit:
                label = OTHER
            self.values.add(label)
        return label
