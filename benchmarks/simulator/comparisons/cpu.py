"""The default model on two cores: what a run of `motet bench` on such a machine should show."""

from dataclasses import replace

from benchmarks.simulator.figures import attainment, percentile, throughput, ttfts
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import SLO_S, cpu_smollm2
from benchmarks.simulator.setup import policy
from motet.bench.named import make_workload

_SPECS = ("fcfs", "cluster", "slo", "cluster+slo")
# Two where nobody waits for long, and two under overload.
_RATES_PER_S = (2.0, 4.0, 6.0, 8.0)


def compare_cpu(lab: Lab) -> Table:
    """SLO attainment by load and policy, with S-LoRA's S2 at a quarter of its lengths."""
    rows = []
    attained = {}
    for rate_per_s in _RATES_PER_S:
        parameters = {
            "setting": "S2",
            "num_adapters": 100,
            "rate_per_s": rate_per_s,
            "duration_s": lab.duration_s(120),
            "length_scale": 0.25,
        }
        workload = make_workload("slora", parameters, seed=42)
        for spec in _SPECS:
            name = f"R={rate_per_s:g} {spec}"
            outcome = lab.run(name, workload, replace(cpu_smollm2(), policy=policy(spec)))
            times = ttfts(outcome.records)
            attained[rate_per_s, spec] = attainment(outcome, SLO_S)
            rows.append(
                (name, throughput(outcome), attained[rate_per_s, spec], percentile(times, 50))
            )
    most = max(_RATES_PER_S)
    return Table(
        title="SmolLM2-135M on 2 cores: S2, 100 adapters, lengths of 2 to 127 tokens, 120 s",
        columns=["setting", "requests/s", "attainment", "median TTFT [s]"],
        rows=rows,
        claims={
            f"R={most:g}: slo attains more than fcfs": (
                attained[most, "slo"] > attained[most, "fcfs"]
            )
        },
    )
