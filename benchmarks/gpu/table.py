"""The report as a plain table.

Owns: how numbers are written, and what stands in which column.
Does not know: how they came about.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_COLUMNS = ("", "value", "floor", "target", "")


def table(report: Mapping[str, Any]) -> str:
    """All checks and figures by part, then what failed and what was left out."""
    machine = report["machine"]
    lines = [
        f"{report['plan']}, {report['dtype']}, on {machine['device']['name']}; copies move "
        f"{report['copy_gb_per_s']} GB/s",
        f"torch {machine['torch']}, Triton {machine['triton']}, Python {machine['python']}; "
        f"commit {report['commit'][:12]}, {report['date']}, {report['seconds']} s",
    ]
    for name, part in report["parts"].items():
        rows = [*map(_check_row, part["checks"]), *map(_figure_row, part["figures"])]
        lines += ["", f"{name} ({part['seconds']} s)", *_aligned(rows)]
        lines += [f"  left out, no time: {case}" for case in part["left_out"]]
        lines += [f"  failed: {case}: {_last_line(text)}" for case, text in part["errors"].items()]
    lines += ["", _verdict(report)]
    return "\n".join(lines)


def _check_row(check: Mapping[str, Any]) -> Sequence[str]:
    worst = "inf" if check["worst"] is None else f"{check['worst']:.2f}"
    mark = "ok" if check["holds"] else "WRONG"
    return (check["name"], f"{worst} of the tolerance", "", "", mark)


def _figure_row(figure: Mapping[str, Any]) -> Sequence[str]:
    sign = ">=" if figure["at_least"] else "<="
    target = "" if figure["target"] is None else f"{sign} {figure['target']:.3f}"
    mark = {True: "reached", False: "MISSED", None: ""}[figure["reached"]]
    unit = f" {figure['unit']}" if figure["unit"] else ""
    value = _number(figure["value"]) + unit
    return (figure["name"], value, _number(figure["floor"]), target, mark)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns side by side, under their heads."""
    all_rows = [_COLUMNS, *rows]
    if len(all_rows) == 1:
        return []
    widths = [max(len(row[i]) for row in all_rows) for i in range(len(_COLUMNS))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in all_rows
    ]


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def _verdict(report: Mapping[str, Any]) -> str:
    correct = "every kernel is right" if report["is_correct"] else "CORRECTNESS DOES NOT HOLD"
    num_reached = len(report["targets_reached"])
    num_targets = num_reached + len(report["targets_missed"])
    num_failed = sum(len(part["errors"]) for part in report["parts"].values())
    num_left_out = sum(len(part["left_out"]) for part in report["parts"].values())
    return (
        f"{correct}; {num_reached} of {num_targets} targets reached; "
        f"{num_failed} failed, {num_left_out} left out"
    )
