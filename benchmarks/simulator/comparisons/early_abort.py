"""Early abort against first come, first served, where more comes than can be served."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.simulator import settings
from benchmarks.simulator.figures import attainment, throughput
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import SLO_S, slora_workload
from benchmarks.simulator.setup import Setup, policy


@dataclass(frozen=True)
class _Case:
    """Attributes: the setting; S-LoRA's attainment by first come, first served, and with abort."""

    name: str
    make_setup: Callable[[], Setup]
    setting: str
    num_adapters: int
    rate_per_s: float
    cv: float
    published_fcfs: float
    published_abort: float


_CASES = (
    _Case("A100-80 S4 R=6 cv=1", settings.a100_80_13b, "S4", 400, 6, 1, 0.101, 0.718),
    _Case("A100-80 S4 R=6 cv=8", settings.a100_80_13b, "S4", 400, 6, 8, 0.136, 0.562),
    _Case("A10G S2 R=2 cv=1", settings.a10g_7b, "S2", 200, 2, 1, 0.270, 0.858),
    _Case("A10G S2 R=2 cv=8", settings.a10g_7b, "S2", 200, 2, 8, 0.315, 0.636),
    _Case("A10G S1 R=2 cv=1", settings.a10g_7b, "S1", 200, 2, 1, 0.516, 0.941),
)


def compare_early_abort(lab: Lab) -> Table:
    """The share of requests whose first token comes within 6 s."""
    rows = [_row(lab, case) for case in _CASES]
    overload = rows[0]
    return Table(
        title="SLO attainment: early abort against FCFS",
        columns=[
            "setting",
            "FCFS, S-LoRA",
            "FCFS",
            "abort, S-LoRA",
            "abort",
            "requests/s, FCFS",
            "requests/s, abort",
        ],
        rows=rows,
        claims={
            f"{_CASES[0].name}: abort attains at least 5 times what FCFS does": (
                overload[4] >= 5 * overload[2]
            ),
            "abort attains more than FCFS in every setting": all(r[4] > r[2] for r in rows),
        },
    )


def _row(lab: Lab, case: _Case) -> tuple[str, float, float, float, float, float, float]:
    workload = slora_workload(
        case.setting, case.num_adapters, case.rate_per_s, lab.duration_s(300), cv=case.cv
    )
    setup = case.make_setup()
    fcfs = lab.run(f"{case.name} fcfs", workload, setup)
    with_abort = replace(setup, policy=policy("slo", ttft_slo_s=SLO_S))
    abort = lab.run(f"{case.name} slo", workload, with_abort)
    return (
        case.name,
        case.published_fcfs,
        attainment(fcfs, SLO_S),
        case.published_abort,
        attainment(abort, SLO_S),
        throughput(fcfs),
        throughput(abort),
    )
