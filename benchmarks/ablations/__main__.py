"""What is each idea worth on this machine?

    python -m benchmarks.ablations
    python -m benchmarks.ablations --only abort --only fair --repeats 3
    python -m benchmarks.ablations --quick

Real servers on loopback, asked by the client of `motet bench`: many adapters against few, batched
LoRA against merge-and-swap, clusters of adapters, early abort, the unified pool against one with
partitions, the prefix cache, fairness. Rates are shares of what the plain server can do, which is
measured first. The sides of a part take turns. Each run's results are kept, with a report for each
part that shows the first two sides beside each other. The last line of the output is one JSON
object.

`python -m benchmarks.simulate` asks the same questions of devices that are not at hand.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablations.lab import Lab
from benchmarks.ablations.parts import QUICK, Size, capacity_parameters, parts
from benchmarks.ablations.plan import Part
from motet.bench.environment import describe_machine
from motet.bench.measures import Summary
from motet.bench.record import read_run
from motet.bench.report import write_report

PART_NAMES = [part.name for part in parts(Size())]


def measure(
    size: Size, model_dir: Path, names: Sequence[str], num_repeats: int, results: Path
) -> dict[str, Any]:
    """Run some of the parts and return the figures: medians over repeats, and each repeat's."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="motet-ablations-") as scratch:
        lab = Lab(model_dir, size.num_adapters, Path(scratch), results, _say)
        try:
            capacity_per_s = lab.capacity_per_s(capacity_parameters(size))
            _say(f"this machine does {capacity_per_s:.2f} requests a second")
            for part in parts(size):
                if part.name in names:
                    figures[part.name] = _run_part(lab, part, num_repeats, capacity_per_s)
                    lab.close()
                    _write_report(part, results)
        finally:
            lab.close()
    return {
        "capacity_per_s": round(capacity_per_s, 3),
        **figures,
        "repeats": num_repeats,
        "machine": describe_machine(),
    }


def _run_part(lab: Lab, part: Part, num_repeats: int, capacity_per_s: float) -> dict[str, Any]:
    _say(f"{part.name}: {part.question}")
    by_repeat: list[Mapping[str, float | None]] = []
    for repeat in range(1, num_repeats + 1):
        shift = (repeat - 1) % len(part.trials)
        order = [*part.trials[shift:], *part.trials[:shift]]
        summaries: dict[str, Summary] = {
            trial.name: lab.run(part.name, trial, repeat, capacity_per_s) for trial in order
        }
        by_repeat.append(part.figures(summaries))
        _say(f"{part.name}: {dict(by_repeat[-1])}")
    return {
        name: {
            "median": _median([figures[name] for figures in by_repeat]),
            "repeats": [figures[name] for figures in by_repeat],
        }
        for name in by_repeat[0]
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 4) if known else None


def _write_report(part: Part, results: Path) -> None:
    folders = [results / part.name / f"{trial.name}-1" for trial in part.trials[:2]]
    write_report([read_run(folder) for folder in folders], results / part.name / "report.html")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="a Hugging Face directory; the default model if not given"
    )
    parser.add_argument(
        "--only", action="append", choices=PART_NAMES, help="run this part; may be repeated"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("results/ablations"), help="folder for the results"
    )
    parser.add_argument("--quick", action="store_true", help="tiny: to try the program")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}: expected 1 or more.")
    try:
        options.out.mkdir(parents=True, exist_ok=False)
    except OSError as error:
        parser.error(f"--out has to be a new folder, so that no results mix: {error}")
    if options.model is None:
        from motet.models.default_model import default_model_dir

        options.model = default_model_dir()
    size = QUICK if options.quick else Size()
    names = options.only or PART_NAMES
    print(json.dumps(measure(size, options.model, names, options.repeats, options.out)))


if __name__ == "__main__":
    main()
