"""Policies and pools judged in virtual time, on devices that need not be there.

The real scheduler and the real memory bookkeeping run against a model of a device:
`simulator/cost_model.py` says what it knows, `simulator/devices.py` where its constants are from.

    python -m benchmarks.simulate NAME...      compare; without a name, everything
    python -m benchmarks.simulate --fit        the constants of the GPUs, from published figures
    python -m benchmarks.simulate --calibrate  those of this machine's CPU, from measured steps

Each comparison prints a table, with S-LoRA's figure beside the simulated one. The last line is one
JSON object with all of them. `--out` keeps each run for `motet bench report`.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.simulator.comparisons import COMPARISONS
from benchmarks.simulator.devices import cpu
from benchmarks.simulator.fitting import PUBLISHED, fit_share
from benchmarks.simulator.lab import Lab


def main() -> None:
    arguments = _parse_arguments()
    if arguments.fit:
        print(json.dumps({gpu: round(fit_share(each), 3) for gpu, each in PUBLISHED.items()}))
        return
    if arguments.calibrate:
        # It needs an engine and the default model, which nothing else here does.
        from benchmarks.simulator.calibration import Plan, calibrate
        from motet.models.default_model import default_model_dir

        print(json.dumps(calibrate(cpu(), Plan(), default_model_dir())))
        return
    figures = {}
    for name in arguments.names or COMPARISONS:
        out = None if arguments.out is None else arguments.out / name
        table = COMPARISONS[name](Lab(arguments.scale, _say, out))
        print(table.markdown(), end="\n\n", flush=True)
        figures[name] = table.figures()
    print(json.dumps(figures))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to compare: {', '.join(COMPARISONS)}"
    )
    parser.add_argument("--fit", action="store_true", help="fit the GPUs' constants, and end")
    parser.add_argument("--calibrate", action="store_true", help="measure this CPU, and end")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the durations; below 1 to try the program"
    )
    parser.add_argument("--out", type=Path, help="a folder for the results of all runs")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(COMPARISONS)):
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(COMPARISONS)}")
    if not 0 < arguments.scale <= 1:
        parser.error(f"--scale is {arguments.scale}; give more than 0, and 1 at most")
    return arguments


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
