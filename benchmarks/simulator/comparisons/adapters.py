"""How throughput depends on the number of adapters: hardly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.simulator import settings
from benchmarks.simulator.figures import attainment, percentile, throughput, ttfts
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import SLO_S, slora_workload
from benchmarks.simulator.setup import Setup


@dataclass(frozen=True)
class _Case:
    """Attributes: the setting; S-LoRA's requests a second by adapters, where it tells."""

    name: str
    make_setup: Callable[[], Setup]
    setting: str
    rate_per_s: float
    duration_s: float
    published: Mapping[int, float | None]


_CASES = (
    _Case("A10G S1 R=2", settings.a10g_7b, "S1", 2, 300, {1: 1.83, 20: 1.81, 200: 1.78}),
    _Case("A10G S2 R=2", settings.a10g_7b, "S2", 2, 300, {1: 1.74, 20: 1.68, 200: 1.58}),
    _Case("A100-40 S4 R=2", settings.a100_40_13b, "S4", 2, 300, {1: 1.67, 20: 1.52, 200: 1.41}),
    _Case("A100-80 S1 R=10", settings.a100_80_7b, "S1", 10, 120, {5: 8.05, 100: 7.99, 2000: 7.61}),
    _Case("A100-80 S2 R=10", settings.a100_80_7b, "S2", 10, 120, {5: 7.48, 100: 7.29, 2000: 6.71}),
    _Case("A100-80 S4 R=6", settings.a100_80_13b, "S4", 6, 300, {1: 4.43, 100: 4.30, 400: 4.06}),
    _Case("H100 S2 R=20", settings.h100_7b, "S2", 20, 60, {1: None, 200: None, 1000: None}),
)


def compare_numbers_of_adapters(lab: Lab) -> Table:
    """Requests a second with few adapters and with many."""
    rows = []
    kept = {}
    for case in _CASES:
        simulated = {}
        for num_adapters, published in case.published.items():
            workload = slora_workload(
                case.setting, num_adapters, case.rate_per_s, lab.duration_s(case.duration_s)
            )
            outcome = lab.run(f"{case.name} n={num_adapters}", workload, case.make_setup())
            simulated[num_adapters] = throughput(outcome)
            rows.append(
                (
                    f"{case.name} n={num_adapters}",
                    published,
                    simulated[num_adapters],
                    attainment(outcome, SLO_S),
                    percentile(ttfts(outcome.records), 50),
                    float(outcome.num_copies),
                )
            )
        told = {n: each for n, each in case.published.items() if each is not None}
        if told:
            kept[case.name] = (_share_kept(simulated), _share_kept(told))
    return Table(
        title="Requests/s by the number of adapters",
        columns=["setting", "S-LoRA", "simulated", "attainment", "median TTFT [s]", "copies"],
        rows=rows,
        claims={
            f"{name}: the most adapters leave {ours:.0%} of the throughput of the fewest, "
            f"within 10 points of S-LoRA's {published:.0%}": ours >= published - 0.1
            for name, (ours, published) in kept.items()
        },
    )


def _share_kept(throughput_of: Mapping[int, float]) -> float:
    """Of the throughput with the fewest adapters, with the most."""
    return throughput_of[max(throughput_of)] / throughput_of[min(throughput_of)]
