"""What is the paging of thousands of adapters worth?

    python -m benchmarks.many_adapters

Real servers on loopback, with ten thousand adapters made on the spot, from S-LoRA's workload
generator to ten thousand loads and unloads. The last line of the output is one JSON object; its
figures are ratios of sides that took turns in this run, medians over repeats, with the repeats and
what the servers counted meanwhile in `details`.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.machine import device_name
from benchmarks.many_adapters.cached_ttft import measure_cached_ttft
from benchmarks.many_adapters.cold_load import measure_cold_load
from benchmarks.many_adapters.figures import PartReport
from benchmarks.many_adapters.lab import Lab
from benchmarks.many_adapters.leaks import measure_leaks
from benchmarks.many_adapters.page_loss import measure_page_loss
from benchmarks.many_adapters.plan import FULL, QUICK, Plan
from benchmarks.many_adapters.registration import measure_registration
from benchmarks.many_adapters.throughput import measure_throughput
from benchmarks.many_adapters.unified import measure_unified
from motet.bench.environment import describe_machine

# In this order: `page_loss` needs a server on which nothing has run, which `leaks` then uses.
PARTS: Mapping[str, Callable[[Lab], PartReport]] = {
    "registration": measure_registration,
    "throughput": measure_throughput,
    "cached_ttft": measure_cached_ttft,
    "cold_load": measure_cold_load,
    "unified": measure_unified,
    "page_loss": measure_page_loss,
    "leaks": measure_leaks,
}


def measure(plan: Plan, model_dir: Path, parts: Sequence[str]) -> dict[str, Any]:
    """Run some of `PARTS` and return the report. Servers and files are gone afterwards."""
    load_average_before = round(os.getloadavg()[0], 2)  # others' work on this machine
    with tempfile.TemporaryDirectory(prefix="motet-many-adapters-") as scratch:
        lab = Lab(plan, model_dir, Path(scratch), _say)
        try:
            reports = {name: _timed(run, lab) for name, run in PARTS.items() if name in parts}
        finally:
            lab.close()
    return {
        **{key: value for report in reports.values() for key, value in report.figures.items()},
        "device": device_name(),
        "details": {name: report.details for name, report in reports.items()},
        "work": {**asdict(plan), "model": model_dir.name},
        "machine": {
            **describe_machine("motet", "torch", "numba"),
            "load_average_before": load_average_before,
        },
    }


def _timed(run: Callable[[Lab], PartReport], lab: Lab) -> PartReport:
    start_s = time.perf_counter()
    report = run(lab)
    part_s = round(time.perf_counter() - start_s, 1)
    return replace(report, details={**report.details, "part_s": part_s})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="a Hugging Face directory; the default model if not given"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="all parts in two minutes of an idle machine: to try the program",
    )
    parser.add_argument("--repeats", type=int, help="of each part that takes turns")
    parser.add_argument(
        "--only", action="append", choices=PARTS, help="run this part; may be repeated"
    )
    return parser.parse_args()


def _end(*_: object) -> NoReturn:
    """As an exception: a run that is killed must not leave its servers behind."""
    sys.exit("The measurement was ended by a signal.")


def main() -> None:
    arguments = _parse_arguments()
    signal.signal(signal.SIGTERM, _end)
    if arguments.model is None:
        from motet.models.default_model import default_model_dir

        arguments.model = default_model_dir()
    plan = QUICK if arguments.quick else FULL
    if arguments.repeats is not None:
        plan = plan.with_repeats(arguments.repeats)
    print(json.dumps(measure(plan, arguments.model, arguments.only or list(PARTS))))


if __name__ == "__main__":
    main()
