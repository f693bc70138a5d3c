"""Are 2000 adapters served as fast as five? (Table 3 of S-LoRA.)

Owns: the comparison, in S1 and S2, and its floor.

Both sides get the same requests at the same times, but for the adapters, at a rate above what the
server can do; popularity is uniform. Two servers, of which one has five adapters of the setting and
the other ten thousand, take turns.
"""

import random
from typing import Any

from benchmarks.machine import read_bandwidth_bytes_per_s
from benchmarks.many_adapters.figures import PartReport, median, spread
from benchmarks.many_adapters.floor import floor_ratio
from benchmarks.many_adapters.lab import Lab
from benchmarks.many_adapters.plan import FEW, SETTINGS
from benchmarks.many_adapters.trace_run import TraceRun, run_trace
from benchmarks.open_loop import TimedCompletion, play

_WARM_UP_TOKENS = 8


def measure_throughput(lab: Lab) -> PartReport:
    """`throughput_n2000_over_n5`, and the floors under it, by setting."""
    _warm_up(lab)
    bandwidth = read_bandwidth_bytes_per_s()
    reports = {setting: _measure_setting(lab, setting, bandwidth) for setting in SETTINGS}
    figures = {
        f"{name}_n2000_over_n5": {
            setting: report[name]["median"] for setting, report in reports.items()
        }
        for name in ("throughput", "floor", "floor_with_loads")
    }
    details = {**reports, "read_bandwidth_gb_per_s": round(bandwidth / 1e9, 2)}
    return PartReport(figures=figures, details=details)


def _measure_setting(lab: Lab, setting: str, bandwidth: float) -> dict[str, Any]:
    runs: dict[str, list[TraceRun]] = {"few": [], "many": []}
    for repeat in range(lab.plan.throughput.num_repeats):
        for side in ("few", "many") if repeat % 2 == 0 else ("many", "few"):
            run = _run_side(lab, setting, side, repeat)
            runs[side].append(run)
            lab.say(f"{setting} {side}, repeat {repeat + 1}: {run.requests_per_s:.3f} requests/s")
    pairs = list(zip(runs["few"], runs["many"], strict=True))
    return {
        "throughput": spread([many.requests_per_s / few.requests_per_s for few, many in pairs]),
        "floor": spread([_floor(few, many, bandwidth, loads=False) for few, many in pairs]),
        "floor_with_loads": spread(
            [_floor(few, many, bandwidth, loads=True) for few, many in pairs]
        ),
        "median_requests_per_s": {
            side: median([run.requests_per_s for run in of_side]) for side, of_side in runs.items()
        },
        "runs": {side: [run.as_json() for run in of_side] for side, of_side in runs.items()},
    }


def _run_side(lab: Lab, setting: str, side: str, repeat: int) -> TraceRun:
    server, num_adapters = (lab.few(), FEW) if side == "few" else (lab.many(), lab.plan.num_many)
    return run_trace(lab, server, SETTINGS[setting], lab.plan.throughput, num_adapters, repeat)


def _floor(few: TraceRun, many: TraceRun, bandwidth: float, *, loads: bool) -> float:
    extra_bytes = many.decode_bytes - few.decode_bytes
    if loads:
        extra_bytes += many.copied_bytes - few.copied_bytes
    return floor_ratio(few.elapsed_s, extra_bytes, bandwidth)


def _warm_up(lab: Lab) -> None:
    """A few tokens from both servers, with an adapter of each setting."""
    rng = random.Random(0)
    for server in (lab.few(), lab.many()):
        timed = [
            TimedCompletion(
                at_s=0.0,
                completion=lab.completion(
                    rng, kind.adapter_name(0), _WARM_UP_TOKENS, _WARM_UP_TOKENS
                ),
            )
            for kind in SETTINGS.values()
        ]
        play(server.url, timed, lab.plan.limit_s)
