"""A small simulated server, whose times can be worked out by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.simulator.devices import Device
from benchmarks.simulator.setup import Setup
from motet.bench.workload import Workload, WorkRequest
from motet.core.shape import ModelShape

SHAPE = ModelShape(
    num_layers=2,
    hidden_size=64,
    intermediate_size=128,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    vocab_size=100,
)
# A step takes 1 s whatever is in it, a read 10 s, a copy 3 s.
DEVICE = Device(
    name="slow",
    weights_bytes_per_s=1e30,
    kv_bytes_per_s=1e30,
    adapter_bytes_per_s=1e30,
    flops_per_s=1e30,
    step_s=1.0,
    lora_layer_s=0.0,
    copy_s=3.0,
    copy_bytes_per_s=1e30,
    read_s=10.0,
    read_bytes_per_s=1e30,
)


def setup(**changes: Any) -> Setup:
    """A server with a pool of 50 pages of 16 tokens."""
    plain = Setup(
        model="small",
        shape=SHAPE,
        device=DEVICE,
        num_pool_tokens=800,
        max_step_tokens=32,
        max_running=8,
        host_bytes=1 << 30,
        default_rank=4,
    )
    return replace(plain, **changes)


def request(index: int, arrival_s: float = 0.0, **changes: Any) -> WorkRequest:
    """A prompt of 10 tokens and an answer of 3, of the base model."""
    fields: dict[str, Any] = {
        "adapter": None,
        "num_prompt_tokens": 10,
        "num_output_tokens": 3,
        "stream": index,
        **changes,
    }
    return WorkRequest(index=index, arrival_s=arrival_s, **fields)


def workload(requests: Sequence[WorkRequest]) -> Workload:
    return Workload(name="by hand", seed=0, parameters={}, requests=requests)
