"""A polite tenant beside one that floods the server."""

from dataclasses import replace

from benchmarks.simulator.figures import percentile, throughput, ttfts
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import a100_80_7b
from benchmarks.simulator.setup import policy
from motet.bench.named import make_workload

_FLOOD_PER_S = 20.0
_BUSY_PER_S = 6.0  # with the polite one, about what the server can do
_POLITE_PER_S = 1.0
_POLITE = "polite"
_MAX_RUNNING = a100_80_7b().max_running


def compare_fairness(lab: Lab) -> Table:
    """The polite tenant's times to the first token: alone, by arrival, and by fair shares.

    Alone it has the steps to itself. "No flood" is the other tenant at a rate that the server can
    still serve: what the steps of a full batch cost, without any queue. With fewer places steps
    are shorter, for less throughput.
    """
    rows = []
    p99_s = {}
    for name, flood_per_s, spec, max_running in (
        ("alone", 0.0, "fcfs", _MAX_RUNNING),
        ("no flood, fcfs", _BUSY_PER_S, "fcfs", _MAX_RUNNING),
        ("flood, fcfs", _FLOOD_PER_S, "fcfs", _MAX_RUNNING),
        ("flood, fair", _FLOOD_PER_S, "fair", _MAX_RUNNING),
        ("flood, fair, 64 places", _FLOOD_PER_S, "fair", 64),
    ):
        parameters = {
            "tenants": ["flood", _POLITE],
            "rates_per_s": [flood_per_s, _POLITE_PER_S],
            "duration_s": lab.duration_s(120),
        }
        workload = make_workload("tenants", parameters, seed=0)
        setup = replace(a100_80_7b(), policy=policy(spec), max_running=max_running)
        outcome = lab.run(name, workload, setup)
        times = ttfts(record for record in outcome.records if record.tenant == _POLITE)
        p99_s[name] = percentile(times, 99)
        rows.append((name, percentile(times, 50), p99_s[name], throughput(outcome)))
    return Table(
        title="A polite tenant (1/s) beside another (flood 20/s, no flood 6/s): A100-80, Llama-7B",
        columns=["polite tenant", "its median TTFT [s]", "its p99 TTFT [s]", "requests/s of all"],
        rows=rows,
        claims={
            "fair: its p99 is within 1.5 times what it has alone": (
                p99_s["flood, fair"] <= 1.5 * p99_s["alone"]
            ),
            "fair: its p99 is less than a tenth of what it is by arrival": (
                p99_s["flood, fair"] < 0.1 * p99_s["flood, fcfs"]
            ),
        },
    )
