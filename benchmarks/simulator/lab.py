"""Where comparisons are run: it simulates, shortens, tells how it goes, and keeps the results.

Owns: the results folders, one for each run.
Does not know: what is compared.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.simulator.settings import SLO_S
from benchmarks.simulator.setup import Setup
from benchmarks.simulator.simulation import Outcome, simulate
from motet.bench.record import WORKLOAD_FILE, Run, RunInfo, Slo, write_run
from motet.bench.workload import Workload, encode_workload


@dataclass(frozen=True)
class Table:
    """What a comparison comes to.

    Attributes:
        title: a line.
        columns, rows: for people. Each published figure stands beside the simulated one.
        claims: what the published figures say, and whether the simulated ones say it too.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    claims: dict[str, bool]

    def markdown(self) -> str:
        """As a table of Markdown."""
        lines = [self.columns, ["---"] * len(self.columns)]
        lines += [[_cell(value) for value in row] for row in self.rows]
        table = [f"| {' | '.join(cells)} |" for cells in lines]
        claims = [f"- {'yes' if holds else 'NO'}: {claim}" for claim, holds in self.claims.items()]
        return "\n".join([f"### {self.title}", "", *table, "", *claims])

    def figures(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "title": self.title,
            "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
            "claims": self.claims,
        }


class Lab:
    """Runs simulations.

    Args:
        scale: of the published durations; less than 1 is for trying the program.
        say: takes a line on how it goes.
        out: a folder for the results of all runs; None keeps none.
    """

    def __init__(self, scale: float, say: Callable[[str], None], out: Path | None = None) -> None:
        self.scale = scale
        self._say = say
        self._out = out

    def duration_s(self, published_s: float) -> float:
        """How long requests arrive."""
        return published_s * self.scale

    def run(
        self, label: str, workload: Workload, setup: Setup, *, num_unused_adapters: int = 0
    ) -> Outcome:
        """Serve a workload; see `simulate`."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        outcome = simulate(workload, setup, num_unused_adapters=num_unused_adapters)
        speed = outcome.num_scheduled / outcome.took_s
        self._say(
            f"{label}: {len(outcome.records)} requests, {outcome.simulated_s:.0f} s in "
            f"{outcome.took_s:.1f} s, {speed:,.0f} sequences/s"
        )
        if self._out is not None:
            folder = self._out / re.sub(r"[^A-Za-z0-9.=-]+", "_", label)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / WORKLOAD_FILE).write_bytes(encode_workload(workload))
            write_run(folder, _as_run(label, workload, setup, outcome, started_at))
        return outcome


def _as_run(label: str, workload: Workload, setup: Setup, outcome: Outcome, started_at: str) -> Run:
    return Run(
        info=RunInfo(
            label=label,
            target=f"simulated {setup.name}",
            workload=workload.name,
            seed=workload.seed,
            is_open_loop=True,
            slo=Slo(ttft_s=SLO_S),
            started_at=started_at,
            wall_s=outcome.simulated_s,
            settings={
                "pool_tokens": setup.num_pool_tokens,
                "max_step_tokens": setup.max_step_tokens,
                "max_running": setup.max_running,
                "prefix_cache": setup.keeps_prefixes,
                "steps": outcome.num_steps,
                "preemptions": outcome.num_preemptions,
                "adapter_reads": outcome.num_reads,
                "adapter_copies": outcome.num_copies,
            },
            environment={"device": setup.device.name, "simulated_in_s": round(outcome.took_s, 3)},
        ),
        requests=outcome.records,
        samples=outcome.samples,
    )


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}"
