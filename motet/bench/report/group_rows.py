"""Rows of groups as a table shows them.

Owns: what a group is called, and the order of the rows of two runs.
Does not know: HTML.
"""

from collections.abc import Callable, Sequence

from motet.bench.groups import GroupRow
from motet.bench.measures import Summary
from motet.bench.report.views import RunView


def adapter_name(row: GroupRow) -> str:
    """An adapter's own name, or what stands for it."""
    return _name(row, unnamed="(base model)", plural="adapters")


def tenant_name(row: GroupRow) -> str:
    """A tenant's own name, or what stands for it."""
    return _name(row, unnamed="(no tenant)", plural="tenants")


def rows_by_group(
    views: Sequence[RunView], rows_of: Callable[[Summary], Sequence[GroupRow]]
) -> list[tuple[GroupRow, RunView]]:
    """All rows, those of one group together; groups in the order of the first run, the rest last.

    Runs of different workloads may have rows for different groups.
    """
    rows = [(row, view) for view in views for row in rows_of(view.summary)]
    groups = list(dict.fromkeys((row.kind, row.name) for row, _ in rows))
    groups.sort(key=lambda group: group[0] == "rest")
    return [pair for group in groups for pair in rows if (pair[0].kind, pair[0].name) == group]


def _name(row: GroupRow, unnamed: str, plural: str) -> str:
    if row.kind == "rest":
        return f"({row.num_members:,} other {plural})"
    return unnamed if row.name is None else row.name
