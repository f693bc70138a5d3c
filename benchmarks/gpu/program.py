"""All parts in order, within one budget, into one report.

Owns: which parts there are, their shares of the time, and the report's form.
Does not know: the command line (`__main__.py`), nor how a table shows the report (`table.py`).
"""

import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.attention_times import attention_time_cases
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.correctness import correctness_cases
from benchmarks.gpu.engine_runs import engine_cases, variant_cases
from benchmarks.gpu.fused_times import fused_time_cases
from benchmarks.gpu.lora_times import lora_time_cases
from benchmarks.gpu.machine import cache_bytes, commit, copy_bytes_per_s, describe_machine
from benchmarks.gpu.model import Model, random_model
from benchmarks.gpu.options import plain_kernels
from benchmarks.gpu.parts import Case, Part, PartReport, run_parts
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Figure
from benchmarks.gpu.routing_times import routing_time_cases
from benchmarks.gpu.trace_table import trace_cases

_CORRECTNESS = "correctness"
REPORT_FILE = "report.json"


def run_program(
    plan: Plan, device: torch.device, out_dir: Path, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run all parts. The report is written after each, so that a run that is ended leaves one.

    Args:
        out_dir: where `report.json` goes.
        seed: of all that is random.
        say: takes a line on how it goes.

    Returns:
        The report; `is_correct` says whether every check was made and holds.
    """
    torch.manual_seed(seed)
    start_s = time.monotonic()
    bandwidth = copy_bytes_per_s(device, plan.copy_bytes)
    bench = Bench(
        plan=plan,
        device=device,
        kernels=plain_kernels(),
        copy_bytes_per_s=bandwidth,
        cache_bytes=cache_bytes(device),
        seed=seed,
    )
    head = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "plan": plan.name,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "seed": seed,
        "machine": describe_machine(device),
        "copy_gb_per_s": round(bandwidth / 1e9, 1),
    }
    reports: list[PartReport] = []
    report: dict[str, Any] = {}
    for part_report in run_parts(_parts(bench), plan.budget_s, say):
        reports.append(part_report)
        seconds = round(time.monotonic() - start_s, 1)
        report = {**head, "seconds": seconds, **_summary(reports)}
        text = json.dumps(report, indent=1, allow_nan=False)
        (out_dir / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    return report


def _parts(bench: Bench) -> list[Part]:
    @cache
    def model() -> Model:
        return random_model(bench.plan, bench.device, bench.seed)

    def correctness() -> Iterator[Case]:
        return correctness_cases(bench.plan, bench.kernels, bench.device, bench.seed)

    return [
        Part(_CORRECTNESS, 0.30, correctness),
        Part("lora kernels", 0.11, lambda: lora_time_cases(bench)),
        Part("routed sets", 0.05, lambda: routing_time_cases(bench)),
        Part("attention", 0.05, lambda: attention_time_cases(bench)),
        Part("fused kernels", 0.03, lambda: fused_time_cases(bench)),
        Part("engine", 0.17, lambda: engine_cases(bench, model())),
        Part("options", 0.09, lambda: variant_cases(bench, model())),
        Part("s-lora table", 0.25, lambda: trace_cases(bench, model())),
    ]


def _summary(reports: Sequence[PartReport]) -> dict[str, Any]:
    of_name = {report.name: report for report in reports}
    checked = of_name[_CORRECTNESS]
    figures = [figure for report in reports for figure in report.figures]
    return {
        "is_correct": checked.is_whole and all(check.holds for check in checked.checks),
        "targets_reached": _names(figures, reached=True),
        "targets_missed": _names(figures, reached=False),
        "parts": {name: report.as_json() for name, report in of_name.items()},
    }


def _names(figures: Sequence[Figure], *, reached: bool) -> list[str]:
    return [figure.name for figure in figures if figure.reached is reached]
