"""S-LoRA's published settings: its GPUs with their pools, and its workload.

Owns: which is which, by the names of its paper; one larger server, and one that is at hand.
Does not know: what is compared.
"""

from benchmarks.simulator import devices
from benchmarks.simulator.devices import Device
from benchmarks.simulator.models import LLAMA_7B, LLAMA_13B, LLAMA_70B, SMOLLM2_135M
from benchmarks.simulator.setup import Setup
from motet.bench.named import make_workload
from motet.bench.workload import Workload

SLO_S = 6.0
# Its limit of running requests.
_MAX_RUNNING = 1000
_SEED = 42


def a10g_7b(device: Device | None = None) -> Setup:
    """Llama-7B on one A10G."""
    return Setup(
        model="Llama-7B",
        shape=LLAMA_7B,
        device=device or devices.a10g(),
        num_pool_tokens=14_500,
        max_running=_MAX_RUNNING,
    )


def a100_40_13b(device: Device | None = None) -> Setup:
    """Llama-13B on one A100 of 40 GB."""
    return Setup(
        model="Llama-13B",
        shape=LLAMA_13B,
        device=device or devices.a100_40(),
        num_pool_tokens=14_000,
        max_running=_MAX_RUNNING,
    )


def a100_80_7b(device: Device | None = None) -> Setup:
    """Llama-7B on one A100 of 80 GB."""
    return Setup(
        model="Llama-7B",
        shape=LLAMA_7B,
        device=device or devices.a100_80(),
        num_pool_tokens=125_000,
        max_running=_MAX_RUNNING,
    )


def a100_80_13b(device: Device | None = None) -> Setup:
    """Llama-13B on one A100 of 80 GB."""
    return Setup(
        model="Llama-13B",
        shape=LLAMA_13B,
        device=device or devices.a100_80(),
        num_pool_tokens=65_000,
        max_running=_MAX_RUNNING,
    )


def h100_7b() -> Setup:
    """Llama-7B on one H100."""
    return Setup(
        model="Llama-7B",
        shape=LLAMA_7B,
        device=devices.h100(),
        num_pool_tokens=120_000,
        max_running=_MAX_RUNNING,
    )


def cpu_smollm2() -> Setup:
    """The default model on two cores, with a pool of 1 GiB; not one of S-LoRA's."""
    return Setup(
        model="SmolLM2-135M",
        shape=SMOLLM2_135M,
        device=devices.cpu(),
        num_pool_tokens=23_000,
        elem_bytes=4,
        host_bytes=2 << 30,
    )


def a100_80_70b_8() -> Setup:
    """Llama-2-70B on eight A100 of 80 GB, with the adapters on disk; not one of S-LoRA's.

    The pool has what the weights leave of 640 GB, less a tenth; host memory has 1 TiB.
    """
    return Setup(
        model="Llama-2-70B",
        shape=LLAMA_70B,
        device=devices.tensor_parallel(devices.a100_80(), 8),
        num_pool_tokens=1_300_000,
        host_bytes=1 << 40,
        starts_on_host=False,
    )


def slora_workload(
    setting: str, num_adapters: int, rate_per_s: float, duration_s: float, *, cv: float = 1.0
) -> Workload:
    """The requests of its evaluation; every prompt is its own, so no prefix cache knows any."""
    parameters = {
        "setting": setting,
        "num_adapters": num_adapters,
        "rate_per_s": rate_per_s,
        "duration_s": duration_s,
        "cv": cv,
    }
    return make_workload("slora", parameters, _SEED)
