"""Adapter clustering: batches of about d adapters, for several d."""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.simulator.figures import attainment, throughput
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import SLO_S, a10g_7b, slora_workload
from benchmarks.simulator.setup import policy

_NUM_ADAPTERS = 32  # so d = 32 is no clustering
# S-LoRA's attainment, by cv and d.
_PUBLISHED: Mapping[tuple[float, int], float | None] = {
    (1, 1): 0.846,
    (1, 2): 0.838,
    (1, 4): 0.792,
    (1, 8): 0.850,
    (1, 32): 0.679,
    (4, 8): 0.504,
    (4, 32): 0.246,
}


def compare_clustering(lab: Lab) -> Table:
    """The share of requests whose first token comes within 6 s."""
    attained: dict[tuple[float, int], float] = {}
    rows = []
    for (cv, d), published in _PUBLISHED.items():
        workload = slora_workload("S2", _NUM_ADAPTERS, 2, lab.duration_s(120), cv=cv)
        setup = replace(a10g_7b(), policy=policy("cluster", num_cluster_adapters=d))
        outcome = lab.run(f"A10G S2 cv={cv} d={d}", workload, setup)
        attained[cv, d] = attainment(outcome, SLO_S)
        running = [s.num_running for s in outcome.samples if s.num_running is not None]
        rows.append(
            (
                f"cv={cv} d={d}",
                published,
                attained[cv, d],
                throughput(outcome),
                sum(running) / len(running),
                float(outcome.num_copies),
            )
        )
    return Table(
        title="SLO attainment by d (A10G S2, 32 adapters, R=2, 120 s)",
        columns=["setting", "S-LoRA", "simulated", "requests/s", "mean running", "copies"],
        rows=rows,
        claims={f"cv={cv}: d=8 above d=32": attained[cv, 8] > attained[cv, 32] for cv in (1, 4)},
    )
