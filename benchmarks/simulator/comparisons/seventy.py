"""Llama-2-70B on eight GPUs, with up to 100,000 adapters on disk."""

from dataclasses import replace

from benchmarks.simulator.figures import attainment, percentile, throughput, ttfts
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import SLO_S, a100_80_70b_8
from benchmarks.simulator.setup import policy
from motet.bench.named import make_workload

_RATE_PER_S = 8.0
_OVERLOAD_PER_S = 16.0
_MANY = 100_000
# Adapters, requests a second, and the policy.
_CASES = (
    (100, _RATE_PER_S, "fcfs"),
    (10_000, _RATE_PER_S, "fcfs"),
    (_MANY, _RATE_PER_S, "fcfs"),
    (_MANY, _OVERLOAD_PER_S, "fcfs"),
    (_MANY, _OVERLOAD_PER_S, "cluster"),
    (_MANY, _OVERLOAD_PER_S, "slo"),
    (_MANY, _OVERLOAD_PER_S, "cluster+slo"),
)


def compare_seventy(lab: Lab) -> Table:
    """Requests a second and times to the first token, by adapters, load and policy."""
    rows = []
    served = {}
    attained = {}
    for num_adapters, rate_per_s, spec in _CASES:
        parameters = {
            "num_adapters": num_adapters,
            "rate_per_s": rate_per_s,
            "duration_s": lab.duration_s(300),
            "rank_cycle": [64, 32, 16, 8],
        }
        workload = make_workload("zipf", parameters, seed=0)
        name = f"n={num_adapters} R={rate_per_s:g} {spec}"
        outcome = lab.run(
            name,
            workload,
            replace(a100_80_70b_8(), policy=policy(spec)),
            num_unused_adapters=num_adapters - len(workload.adapters),
        )
        times = ttfts(outcome.records)
        served[num_adapters, rate_per_s, spec] = throughput(outcome)
        attained[num_adapters, rate_per_s, spec] = attainment(outcome, SLO_S)
        rows.append(
            (
                name,
                throughput(outcome),
                attainment(outcome, SLO_S),
                percentile(times, 50),
                percentile(times, 99),
                float(outcome.num_reads),
            )
        )
    few, many = (100, _RATE_PER_S, "fcfs"), (_MANY, _RATE_PER_S, "fcfs")
    overloaded = (_MANY, _OVERLOAD_PER_S, "fcfs")
    return Table(
        title="Llama-2-70B on 8 A100-80, adapters by Zipf's law, read from disk",
        columns=[
            "setting",
            "requests/s",
            "attainment",
            "median TTFT [s]",
            "p99 TTFT [s]",
            "cold reads",
        ],
        rows=rows,
        claims={
            f"100,000 adapters leave at least 90 % of the throughput of 100: "
            f"{served[many] / served[few]:.0%}": served[many] >= 0.9 * served[few],
            "slo attains more than fcfs under overload": (
                attained[_MANY, _OVERLOAD_PER_S, "slo"] > attained[overloaded]
            ),
        },
    )
