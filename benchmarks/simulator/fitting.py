"""Which share of a GPU's data sheet S-LoRA came to.

Owns: the search for it, and the published throughputs that it is searched by.
Does not know: how the share is used (`devices.py`).

It is one number for each GPU, found from one published figure: requests a second with a single
adapter under overload, where the queue is never empty. All other figures are predictions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.simulator import devices, settings
from benchmarks.simulator.devices import Device
from benchmarks.simulator.figures import throughput
from benchmarks.simulator.settings import slora_workload
from benchmarks.simulator.setup import Setup
from benchmarks.simulator.simulation import simulate

_NUM_HALVINGS = 8


@dataclass(frozen=True)
class Published:
    """A figure of S-LoRA's, and what was measured.

    Attributes:
        make_setup, device: the server on a GPU, and the GPU by its share.
        setting, rate_per_s, duration_s: the load, of one adapter.
        throughput: what came of it [requests/s].
    """

    make_setup: Callable[[Device], Setup]
    device: Callable[[float], Device]
    setting: str
    rate_per_s: float
    duration_s: float
    throughput: float


PUBLISHED: Mapping[str, Published] = {
    "A10G": Published(settings.a10g_7b, devices.a10g, "S2", 2.5, 300, 1.88),
    "A100-40": Published(settings.a100_40_13b, devices.a100_40, "S4", 2, 300, 1.67),
    "A100-80": Published(settings.a100_80_7b, devices.a100_80, "S2", 10, 300, 7.74),
}


def fit_share(published: Published) -> float:
    """The share at which the simulated throughput is the published one, to half a percent."""
    workload = slora_workload(published.setting, 1, published.rate_per_s, published.duration_s)
    low, high = 0.0, 1.0
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        setup = published.make_setup(published.device(middle))
        if throughput(simulate(workload, setup)) < published.throughput:
            low = middle
        else:
            high = middle
    return (low + high) / 2
