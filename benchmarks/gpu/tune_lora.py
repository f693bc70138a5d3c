"""Finds block sizes for the Triton LoRA kernels on this machine's GPU, and writes their table.

For every class of shapes, starting from the sizes in the table, one size at a time is varied and
the fastest kept, if its result is that of the sizes in the table. A launch is timed within a
captured graph of many, each of adapters of its own. Shape of Llama-3.1-8B, bfloat16.

Run: python -m benchmarks.gpu.tune_lora [--output FILE] [--budget-s SECONDS]
The last line is one JSON object: microseconds before and after, and GB/s of rank rows, by class;
and tiles against dense products for one adapter of 8192 tokens, by rank. Classes for which the
budget did not suffice keep their sizes. Exits 1 where some sizes gave another result, 2 without a
GPU.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
import triton

from benchmarks.gpu.lora_tuning.batches import expand_batches, one_adapter, shrink_batches
from benchmarks.gpu.lora_tuning.measure import Measure, Timer
from benchmarks.gpu.lora_tuning.search import EXPAND_CHOICES, SHRINK_CHOICES, fastest
from benchmarks.gpu.lora_tuning.table_file import render_table
from benchmarks.gpu.lora_tuning.work import ExpandWork, ShrinkWork, Work
from benchmarks.gpu.timing import device_times_s
from motet.kernels import lora_triton_dense as dense
from motet.kernels import lora_triton_table
from motet.kernels import lora_triton_tiles as tiles
from motet.kernels.lora_triton_sizes import (
    ExpandSizes,
    Shape,
    ShrinkSizes,
    all_classes,
    expand_sizes,
    shrink_sizes,
)

Sizes = TypeVar("Sizes", ShrinkSizes, ExpandSizes)

NUM_ROUNDS = 5
DTYPE = torch.bfloat16
PROMPT_TOKENS = 8192
PROMPT_RANKS = (16, 64, 128)


@dataclass
class Report:
    """What was measured, by kernel and class, and the sizes that computed something else."""

    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(lora_triton_table.__file__),
        help="the file of the table; by default that of the package",
    )
    parser.add_argument(
        "--budget-s", type=float, default=540.0, help="no class is begun after so many seconds"
    )
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("tune_lora: needs a CUDA GPU, and there is none here", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    deadline_s = time.monotonic() + options.budget_s
    report = Report()
    shrink, expand = tune_all(device, device_timer(device), has_time(deadline_s), report)
    device_name = torch.cuda.get_device_name()
    source = f"measured on one {device_name}, Triton {triton.__version__}."
    options.output.write_text(render_table(source, shrink, expand))
    result = {
        "device": device_name,
        "classes": report.classes,
        "wrong": report.wrong,
        "dense_over_tiles": {
            rank: dense_over_tiles(rank, device, device_timer(device)) for rank in PROMPT_RANKS
        },
    }
    print(json.dumps(result))
    return 1 if report.wrong else 0


def has_time(deadline_s: float) -> Callable[[], bool]:
    """Whether the monotonic clock is before the deadline."""
    return lambda: time.monotonic() < deadline_s


def device_timer(device: torch.device) -> Timer:
    """The median of a few replays."""
    return lambda launch_all: statistics.median(device_times_s(launch_all, device, NUM_ROUNDS))


def tune_all(
    device: torch.device, timer: Timer, may_go_on: Callable[[], bool], report: Report
) -> tuple[dict[Shape, ShrinkSizes], dict[Shape, ExpandSizes]]:
    """Sizes of both kernels for every class; those in the table once there is no time left."""
    shrink = {least: shrink_sizes(least) for least in all_classes()}
    expand = {least: expand_sizes(least) for least in all_classes()}
    for least in all_classes():
        if may_go_on():
            shrinks = ShrinkWork(shrink_batches(least, DTYPE, device))
            name = f"shrink {tuple(least)}"
            shrink[least] = tune(name, shrink[least], SHRINK_CHOICES, shrinks, timer, report)
        if may_go_on():
            expands = ExpandWork(expand_batches(least, DTYPE, device))
            name = f"expand {tuple(least)}"
            expand[least] = tune(name, expand[least], EXPAND_CHOICES, expands, timer, report)
    return shrink, expand


def tune(
    name: str,
    start: Sizes,
    choices: Mapping[str, Sequence[int]],
    work: Work[Sizes],
    timer: Timer,
    report: Report,
) -> Sizes:
    """The fastest sizes for some work, whose figures go into the report."""
    measure = Measure(work, start, timer)
    best, found = fastest(start, choices, measure)
    report.wrong += [f"{name}: {tuple(sizes)}" for sizes in measure.wrong]
    report.classes[name] = {
        "before_us": round(found.before_s * 1e6, 2),
        "best_us": round(found.best_s * 1e6, 2),
        "gb_per_s": round(work.batches.num_bytes / found.best_s / 1e9, 1),
    }
    print(f"{name}: {tuple(start)} -> {tuple(best)} {report.classes[name]}", file=sys.stderr)
    return best


def dense_over_tiles(rank: int, device: torch.device, timer: Timer) -> dict[str, float]:
    """Time of the dense products over that of tiles, for a prompt of one adapter.

    Below 1 from the rank on that `lora_triton_dense.MIN_RANK` should be.
    """
    batches = one_adapter(rank, PROMPT_TOKENS, DTYPE, device)
    pairs = batches.batches[0]
    where = (batches.pool, batches.tables, pairs, 0, batches.projections)
    x = torch.randn(PROMPT_TOKENS, batches.in_features, device=device).to(DTYPE)
    v = dense.shrink(x, *where)
    y = torch.zeros(PROMPT_TOKENS, batches.out_features, dtype=DTYPE, device=device)
    all_pairs = tiles.whole(pairs)
    by_tiles = (
        shrink_sizes(tiles.shrink_shape(pairs, batches.in_features)),
        expand_sizes(tiles.expand_shape(all_pairs, pairs.max_rank, batches.projections)),
    )

    dense_shrink_s = timer(lambda: dense.shrink(x, *where))
    tiles_shrink_s = timer(lambda: tiles.shrink(x, *where, by_tiles[0]))
    dense_expand_s = timer(lambda: dense.expand(v, *where, y))
    tiles_expand_s = timer(lambda: tiles.expand(v, *where, y, all_pairs, by_tiles[1]))
    return {
        "shrink": round(dense_shrink_s / tiles_shrink_s, 2),
        "expand": round(dense_expand_s / tiles_expand_s, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
