"""One pool for KV and adapters against a static partition of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.simulator import settings
from benchmarks.simulator.figures import throughput
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import slora_workload
from benchmarks.simulator.setup import Setup

# Of the pool, for adapters alone. S-LoRA does not say how large its own fixed part was.
_SHARES = (0.1, 0.25, 0.5)


@dataclass(frozen=True)
class _Case:
    """Attributes: the setting; S-LoRA's requests/s by adapters, in one pool and in two."""

    name: str
    make_setup: Callable[[], Setup]
    setting: str
    rate_per_s: float
    published: Mapping[int, tuple[float, float]]


_CASES = (
    _Case(
        "A10G S2 R=2",
        settings.a10g_7b,
        "S2",
        2,
        {1: (1.74, 1.68), 20: (1.68, 1.45), 50: (1.61, 1.20), 200: (1.58, 1.19)},
    ),
    _Case(
        "A100-40 S4 R=2",
        settings.a100_40_13b,
        "S4",
        2,
        {1: (1.67, 1.62), 20: (1.52, 0.96), 50: (1.45, 0.74), 200: (1.41, 0.61)},
    ),
)


def compare_pools(lab: Lab) -> Table:
    """Requests a second."""
    rows: list[Sequence[str | float]] = []
    worst: dict[str, float] = {}  # of each split, the least share of the one pool's throughput
    for case in _CASES:
        for num_adapters, published in case.published.items():
            name = f"{case.name} n={num_adapters}"
            workload = slora_workload(
                case.setting, num_adapters, case.rate_per_s, lab.duration_s(300)
            )
            one = throughput(lab.run(f"{name} one pool", workload, case.make_setup()))
            split = {}
            for share in _SHARES:
                setup = replace(case.make_setup(), adapter_share=share)
                split[share] = throughput(lab.run(f"{name} {share:.0%} split", workload, setup))
                key = f"{case.name}, {share:.0%}"
                worst[key] = min(worst.get(key, 1.0), split[share] / one)
            rows.append((name, published[0], one, published[1], *split.values()))
    return Table(
        title="Requests/s: one pool against a static partition",
        columns=[
            "setting",
            "one pool, S-LoRA",
            "one pool",
            "split, S-LoRA",
            *(f"{share:.0%} for adapters" for share in _SHARES),
        ],
        rows=rows,
        claims={
            f"{name} for adapters: somewhere only {share:.0%} of the one pool's throughput": (
                share < 1
            )
            for name, share in worst.items()
        },
    )
