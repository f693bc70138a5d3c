"""What is one pool worth, beside one that keeps adapters and KV apart?

Owns: the comparison of the same pool bytes in one and in two.

More adapters of mixed ranks than fit are asked for, evenly, and the pool is small enough to bind:
how many requests run at once is decided by pages. The halves of a split pool cannot help each
other, so whichever is full first stops both.
"""

from benchmarks.many_adapters.figures import PartReport, spread
from benchmarks.many_adapters.lab import Lab
from benchmarks.many_adapters.memory_view import read_memory
from benchmarks.many_adapters.plan import S2
from benchmarks.many_adapters.trace_run import TraceRun, run_trace
from benchmarks.server_process import ServerProcess


def measure_unified(lab: Lab) -> PartReport:
    """`unified_over_static`: throughput of one pool over that of the first split."""
    plan = lab.plan.unified
    servers = {"one_pool": lab.one_pool()}
    for share in plan.split_shares:
        servers[f"split_{share}"] = lab.split_pool(share)
    runs = _take_turns(lab, servers)
    unified = runs.pop("one_pool")
    ratios = {
        name: spread(
            [
                one.requests_per_s / two.requests_per_s
                for one, two in zip(unified, split, strict=True)
            ]
        )
        for name, split in runs.items()
    }
    first = next(iter(ratios.values()))
    return PartReport(
        figures={"unified_over_static": first["median"]},
        details={
            "unified_over": ratios,
            "setting": f"S2, {plan.num_adapters} adapters, uniform popularity",
            "num_pages": read_memory(servers["one_pool"]).num_pages_total,
            "runs": {
                name: [run.as_json() for run in of_side]
                for name, of_side in {"one_pool": unified, **runs}.items()
            },
        },
    )


def _take_turns(lab: Lab, servers: dict[str, ServerProcess]) -> dict[str, list[TraceRun]]:
    plan = lab.plan.unified
    names = list(servers)
    runs: dict[str, list[TraceRun]] = {name: [] for name in names}
    for repeat in range(plan.trace.num_repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            run = run_trace(lab, servers[name], S2, plan.trace, plan.num_adapters, repeat)
            runs[name].append(run)
            lab.say(f"unified: {name}, repeat {repeat + 1}: {run.requests_per_s:.3f} requests/s")
    return runs
