"""Which rows of the table a request belongs to: a few names one by one, the others together.

Owns: the choice, so that thousands of adapters do not make thousands of rows.
Does not know: what the rows hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass

NUM_OWN_ROWS = 10
BASE = "base"


@dataclass(frozen=True)
class Groups:
    """Names with a row of their own, and the row of all others."""

    own: frozenset[str]
    others: str

    def of(self, name: str) -> str:
        """The group of a name."""
        return name if name in self.own else self.others


def most_asked(weights: Mapping[str, float], others: str) -> Groups:
    """The ten names with the greatest weights get groups of their own.

    Every process of a load test has to come to the same groups: among equals the first do.
    """
    by_weight = sorted(weights, key=weights.__getitem__, reverse=True)
    return Groups(own=frozenset(by_weight[:NUM_OWN_ROWS]), others=others)
