"""A run as the report speaks of it: its measures, its arrays, and what marks it in every plot.

Owns: names, colours and dashes of the runs of a report.
Does not know: plots and pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from motet.bench.columns import Columns, columns_of
from motet.bench.measures import Summary, summarise
from motet.bench.record import Run, RunInfo
from motet.bench.report.text import clean
from motet.bench.report.theme import LIGHT, RUN_COLOURS, RUN_DASHES

MAX_LABEL_CHARS = 40


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run of a report.

    Attributes:
        label: unlike that of the other run.
        colour_name: of `theme.py`.
        dashes: how its lines are drawn, as matplotlib takes it.
    """

    run: Run
    label: str
    colour_name: str
    dashes: str | tuple[int, tuple[int, ...]]
    columns: Columns
    summary: Summary

    @property
    def colour(self) -> str:
        """To draw with."""
        return LIGHT[self.colour_name]

    @property
    def info(self) -> RunInfo:
        """The setting."""
        return self.run.info


def views_of(runs: Sequence[Run]) -> list[RunView]:
    """Views of one run or of two.

    Raises:
        ValueError: other than one or two runs; a run's SLO is no SLO.
    """
    if len(runs) not in (1, 2):
        raise ValueError(f"A report is of one run or of two, not of {len(runs)}.")
    return [
        RunView(
            run=run,
            label=label,
            colour_name=colour_name,
            dashes=dashes,
            columns=columns_of(run.requests, run.info.slo),
            summary=summarise(run),
        )
        for run, label, colour_name, dashes in zip(
            runs, _labels(runs), RUN_COLOURS, RUN_DASHES, strict=False
        )
    ]


def _labels(runs: Sequence[Run]) -> list[str]:
    labels = [clean(run.info.label, MAX_LABEL_CHARS) or "run" for run in runs]
    if len(set(labels)) == len(labels):
        return labels
    return [f"{label} ({number})" for number, label in enumerate(labels, start=1)]
