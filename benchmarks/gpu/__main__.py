"""Checks and measures everything that needs a GPU: see `run.sh`, which calls it.

Exit status: 0 if every kernel is right, 1 if not or if not all could be checked, 2 if nothing ran.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.gpu.table import table


def main() -> None:
    arguments = _parse_arguments()
    if arguments.tiny:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported

    import torch

    from benchmarks.gpu.plans import REAL, TINY
    from benchmarks.gpu.program import run_program

    if not arguments.tiny and not torch.cuda.is_available():
        print("There is no GPU here; --tiny tries the program on a CPU.", file=sys.stderr)
        sys.exit(2)
    plan, device = (TINY, "cpu") if arguments.tiny else (REAL, "cuda")
    seed = time.time_ns() % 2**31 if arguments.seed is None else arguments.seed
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    report = run_program(plan, torch.device(device), arguments.out_dir, seed, _say)
    print(table(report))
    sys.exit(0 if report["is_correct"] else 1)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.sh", description="Check and measure the kernels and the engine on a GPU."
    )
    parser.add_argument("out_dir", type=Path, help="where report.json goes")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny shapes on a CPU, to try the program"
    )
    parser.add_argument("--seed", type=int, help="of all that is random; fresh if not given")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
