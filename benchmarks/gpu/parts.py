"""Parts of the program, each a row of cases, run within a time that they share.

Owns: what happens when a case fails or the time is over: it is recorded, and the rest goes on.
Does not know: what the cases do.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.results import Check, Figure, Result


@dataclass(frozen=True)
class Case:
    """One question, and how it is answered."""

    name: str
    run: Callable[[], Sequence[Result]]


@dataclass(frozen=True)
class Part:
    """Cases in the order of their weight: where time is short the last are left out.

    Attributes:
        share: of the whole time. What a part leaves over, the next ones may use.
        cases: gives the cases one by one, and lets go of what they needed when it ends.
    """

    name: str
    share: float
    cases: Callable[[], Iterator[Case]]


@dataclass
class PartReport:
    """What became of a part.

    Attributes:
        errors: a traceback by case; that of the part itself under its own name.
        left_out: cases for which there was no time.
    """

    name: str
    seconds: float = 0.0
    results: list[Result] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def checks(self) -> list[Check]:
        return [result for result in self.results if isinstance(result, Check)]

    @property
    def figures(self) -> list[Figure]:
        return [result for result in self.results if isinstance(result, Figure)]

    @property
    def is_whole(self) -> bool:
        return not self.errors and not self.left_out

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "checks": [check.as_json() for check in self.checks],
            "figures": [figure.as_json() for figure in self.figures],
            "errors": self.errors,
            "left_out": self.left_out,
        }


def run_parts(
    parts: Sequence[Part],
    budget_s: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[PartReport]:
    """Run the parts in order; each report comes when its part is done.

    A case that has begun is never cut short, so the whole may end one case after its time.

    Args:
        budget_s: the time of all parts together.
        say: takes a line on how it goes.
    """
    total_share = sum(part.share for part in parts)
    deadline_s = clock()
    for part in parts:
        deadline_s += budget_s * part.share / total_share
        yield _run_part(part, deadline_s, say, clock)


def _run_part(
    part: Part, deadline_s: float, say: Callable[[str], None], clock: Callable[[], float]
) -> PartReport:
    report = PartReport(part.name)
    start_s = clock()
    try:
        for case in part.cases():
            if clock() >= deadline_s:
                report.left_out.append(case.name)
                continue
            case_start_s = clock()
            _run_case(case, report)
            say(f"{part.name}: {case.name} ({clock() - case_start_s:.1f} s)")
    except Exception:
        report.errors[part.name] = traceback.format_exc()
        say(f"{part.name} failed")
    report.seconds = clock() - start_s
    return report


def _run_case(case: Case, report: PartReport) -> None:
    try:
        report.results += case.run()
    except Exception:
        report.errors[case.name] = traceback.format_exc()
