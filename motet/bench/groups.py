"""Requests by adapter and by tenant: a row for each of the largest groups, one for all others.

Owns: how requests are grouped, and what is told of a group.
Does not know: measures of a whole run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from motet.bench.columns import Columns
from motet.bench.distribution import Distribution, distribution_of
from motet.bench.fairness import jain_index, shares_got

Indices = npt.NDArray[np.int64]


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests of one group.

    Attributes:
        kind: `named` is one adapter or tenant; `unnamed` are the requests that name none (of the
            base model, or without a tenant); `rest` is everybody who has no row.
        name: of a `named` group only.
        num_members: how many adapters or tenants.
        attainment: the share of its requests that finished within the SLO.
        ttft_s: of the finished ones.
    """

    kind: Literal["named", "unnamed", "rest"]
    name: str | None
    num_members: int
    num_asked: int
    num_finished: int
    num_refused: int
    num_failed: int
    num_output_tokens: int
    attainment: float
    ttft_s: Distribution | None


@dataclass(frozen=True)
class Groups:
    """Groups by size, the largest first; of equal ones, the one that was first asked for.

    Attributes:
        members: of each group, by its name, the indices of its requests in the run.
    """

    members: dict[str | None, Indices]

    def largest(self, count: int, columns: Columns) -> list[GroupRow]:
        """A row for each of the `count` largest groups, and one for all the others."""
        names = list(self.members)
        rows = [_row(name, self.members[name], columns) for name in names[:count]]
        if rest := names[count:]:
            rows.append(_rest_row([self.members[name] for name in rest], columns))
        return rows

    def fair_shares_got(self, columns: Columns) -> npt.NDArray[np.float64]:
        """Of each group, the requests that finished within the SLO over its fair share of them.

        Requests are what is counted, since a client never learns what a refused one would have
        taken. The fair share is the max-min one (`fairness.py`).
        """
        asked = [len(indices) for indices in self.members.values()]
        got = [int(columns.is_in_time[indices].sum()) for indices in self.members.values()]
        return shares_got(asked, got)

    def fairness(self, columns: Columns) -> float | None:
        """Jain's index over `fair_shares_got`; None with fewer than two groups, or nothing got."""
        return jain_index(self.fair_shares_got(columns)) if len(self.members) > 1 else None


def groups_of(names: Sequence[str | None]) -> Groups:
    """The groups of requests that have these names, one name a request."""
    members: dict[str | None, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name, []).append(index)
    by_size = sorted(members.items(), key=lambda item: -len(item[1]))
    return Groups({name: np.array(indices, dtype=np.int64) for name, indices in by_size})


def _row(name: str | None, indices: Indices, columns: Columns) -> GroupRow:
    kind: Literal["named", "unnamed"] = "unnamed" if name is None else "named"
    return _any_row(kind, name, 1, indices, columns)


def _rest_row(members: Sequence[Indices], columns: Columns) -> GroupRow:
    return _any_row("rest", None, len(members), np.concatenate(members), columns)


def _any_row(
    kind: Literal["named", "unnamed", "rest"],
    name: str | None,
    num_members: int,
    indices: Indices,
    columns: Columns,
) -> GroupRow:
    is_finished = columns.is_finished[indices]
    num_finished, num_refused = int(is_finished.sum()), int(columns.is_refused[indices].sum())
    return GroupRow(
        kind=kind,
        name=name,
        num_members=num_members,
        num_asked=len(indices),
        num_finished=num_finished,
        num_refused=num_refused,
        num_failed=len(indices) - num_finished - num_refused,
        num_output_tokens=int(columns.num_output_tokens[indices].sum()),
        attainment=float(columns.is_in_time[indices].mean()),
        ttft_s=distribution_of(columns.ttft_s[indices][is_finished]),
    )
