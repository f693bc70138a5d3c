"""How near does attention in decode come to the time of reading its KV?

Owns: the batches, and the bytes of their floor: K and V of every context, once for each group.
"""

import statistics
from collections.abc import Iterator
from functools import partial

import msgspec
import torch

from benchmarks.gpu.attention_batch import random_inputs
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Case
from benchmarks.gpu.results import Figure
from benchmarks.gpu.timing import device_times_s


def attention_time_cases(bench: Bench) -> Iterator[Case]:
    """Decode by number of sequences and context."""
    for num_seqs, context_len in bench.plan.kernels.attention:
        name = f"attention decode, {num_seqs} sequences of {context_len} tokens"
        yield Case(name, partial(_decode, bench, name, num_seqs, context_len))


def _decode(bench: Bench, name: str, num_seqs: int, context_len: int) -> list[Figure]:
    """Layer after layer, as many as keep the caches from helping, at most the model's."""
    shape = bench.plan.config.shape
    num_bytes = 2 * num_seqs * context_len * shape.kv_size * bench.plan.dtype.itemsize
    num_layers = min(shape.num_layers, bench.num_copies(num_bytes))
    inputs = random_inputs(
        msgspec.structs.replace(shape, num_layers=1 + num_layers),
        [1] * num_seqs,
        [context_len] * num_seqs,
        bench.plan.dtype,
        torch.Generator(bench.device).manual_seed(bench.seed),
    )
    scale = shape.head_dim**-0.5

    def work() -> None:
        for layer in range(1, 1 + num_layers):
            bench.kernels.paged_attention(
                inputs.q, inputs.pool, layer, inputs.batch, shape.num_kv_heads, scale, None
            )

    times_s = device_times_s(work, bench.device, bench.plan.kernels.num_rounds)
    layer_s = statistics.median(times_s) / num_layers
    figure = Figure(
        name=name,
        value=bench.floor_s(num_bytes) / layer_s,
        floor=1.0,
        target=bench.bandwidth_target(num_bytes, num_launches=1),
        at_least=True,
        details={
            "us_of_a_layer": round(layer_s * 1e6, 2),
            "floor_us": round(bench.floor_s(num_bytes) * 1e6, 2),
            "bytes": num_bytes,
        },
    )
    return [figure]
