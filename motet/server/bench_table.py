"""What `motet bench` prints: the outcome of a run, and which workloads there are.

Owns: which figures, and in what form.
Does not know: how they are had (`motet/bench/measures.py`, `motet/bench/named.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from motet.bench.distribution import Distribution
    from motet.bench.measures import Summary
    from motet.bench.record import Run


def print_outcome(console: Console, run: Run, summary: Summary) -> None:
    """The figures, what went wrong, and what a reader of the figures has to know."""
    table = Table(title=f"{run.info.workload}: {run.info.label}", show_header=False)
    for label, value in _rows(run, summary):
        table.add_row(label, value)
    console.print(table, markup=False, highlight=False)
    messages = run.info.settings["messages"]
    for error, count in summary.errors.items():
        _say(console, f"{count} failed, {error}: {messages.get(error, '')}")
    if run.info.settings["interrupted"]:
        _say(console, "Interrupted: what had come until then was written.")
    for warning in run.info.settings["warnings"]:
        _say(console, f"Note: {warning}")


def print_workloads(console: Console) -> None:
    """All by name."""
    from motet.bench.named import WORKLOADS

    table = Table("workload", "what it is")
    for name, kind in WORKLOADS.items():
        table.add_row(name, kind.description)
    console.print(table, markup=False)


def print_workload(console: Console, name: str) -> None:
    """What one is, and its parameters. Raises ValueError if there is none of this name."""
    from motet.bench.named import find_workload

    kind = find_workload(name)
    _say(console, f"{name}: {kind.description}")
    table = Table("parameter", "type", "default", "what it is")
    for each in kind.parameters.values():
        default = "(needed)" if each.is_required else _default(each.default)
        table.add_row(each.name, each.type_name, default, each.help)
    console.print(table, markup=False)


def _default(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _rows(run: Run, summary: Summary) -> list[tuple[str, str]]:
    slo = run.info.slo
    promised = f"first token in {slo.ttft_s:g} s"
    if slo.itl_s is not None:
        promised += f", then one in {slo.itl_s:g} s"
    return [
        (
            "requests",
            f"{summary.num_asked}: {summary.num_finished} finished, {summary.num_refused} refused, "
            f"{summary.num_failed} failed",
        ),
        ("time", f"{run.info.wall_s:.1f} s"),
        ("throughput", f"{_rate(summary.finished_per_s)} requests/s"),
        ("output", f"{_rate(summary.output_tokens_per_s)} tokens/s"),
        ("ttft", _spread(summary.ttft_s)),
        ("itl", _spread(summary.itl_s)),
        (f"within the SLO ({promised})", _share(summary.attainment)),
        ("goodput", f"{_rate(summary.goodput_per_s)} requests/s"),
        ("user satisfaction", _share(summary.satisfaction)),
        ("fairness by adapter (Jain)", _rate(summary.adapter_fairness)),
    ]


def _rate(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.1%}"


def _spread(spread: Distribution | None) -> str:
    if spread is None:
        return "—"
    figures = {"p50": spread.p50, "p90": spread.p90, "p99": spread.p99}
    return ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in figures.items())


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
