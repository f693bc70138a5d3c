"""What a step costs on a CPU, over what it cannot do without. Run `python -m benchmarks.step`.

The default model in float32, an engine in this process without HTTP, decode steps around 160
tokens of context. All that is compared is measured in turns. The last line is one JSON object:

- b1_over_bytes: a step of one sequence, over its weight bytes at the measured read bandwidth
- int8_over_float32: a step of one sequence with int8 weights, over the same in float32
- b32_over_matmul: a step of 32 sequences, over its matrix products alone in the fastest form
- lora_over_bytes: what 32 distinct rank-16 adapters on all projections add to that step, over the
  time to read their bytes once
- shared_adapter_tax: what one such adapter for all 32 adds, over the step of the base model
- idle_tax: what loaded adapters cost a batch that uses none
- python_share: scheduling and bookkeeping, over the step of 32 sequences
- python_ms_256: the same for 256 sequences [ms]
- vs_peft, base_vs_transformers: output tokens/s over transformers', see `benchmarks/throughput.py`
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numba
import torch

from benchmarks.bookkeeping import measure_bookkeeping
from benchmarks.gpu.engine_lab import EngineLab
from benchmarks.gpu.lora_pool import row_elems, uniform_ranks
from benchmarks.machine import read_bandwidth_bytes_per_s
from benchmarks.matmul_floor import product_times_s
from motet.bench.environment import describe_machine
from motet.core.config import EngineConfig
from motet.kernels.cpu_backend import CpuKernels
from motet.models.checkpoint import Checkpoint
from motet.models.config import load_config
from motet.models.decoder import Decoder
from motet.models.default_model import default_model_dir
from motet.models.weights import DecoderWeights, read_weights

_CPU = torch.device("cpu")
_RANK = 16
_POOL_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    num_seqs: int = 32
    num_many_seqs: int = 256
    num_context_tokens: int = 160
    num_steps: int = 16
    num_repeats: int = 3


Side = Callable[[], float]
"""The median time of a step [s]."""


def measure(plan: Plan) -> dict[str, Any]:
    """All figures but those of the peer."""
    with ExitStack() as stack:
        weights, decoder = _model(torch.float32)
        _, int8_decoder = _model(torch.int8)

        def lab(decoder: Decoder) -> EngineLab:
            config = EngineConfig(pool_memory_bytes=_POOL_BYTES)
            made = EngineLab(decoder, CpuKernels(), config, seed=0)
            return stack.enter_context(closing(made))

        plain, loaded, int8 = lab(decoder), lab(decoder), lab(int8_decoder)
        ranks = uniform_ranks(decoder.config.shape, _RANK)
        digests = [f"adapter{index}" for index in range(plan.num_seqs)]
        for digest in digests:
            loaded.add_adapter(digest, ranks)
        loaded.bring_in(digests)
        base = [None] * plan.num_seqs
        sides: dict[str, Side] = {
            "one": lambda: decode_step_s(plain, [None], plan),
            "one_int8": lambda: decode_step_s(int8, [None], plan),
            "base": lambda: decode_step_s(plain, base, plan),
            "idle": lambda: decode_step_s(loaded, base, plan),
            "shared": lambda: decode_step_s(loaded, digests[:1] * plan.num_seqs, plan),
            "distinct": lambda: decode_step_s(loaded, digests, plan),
        }
        times, bandwidths, products = _take_turns(sides, decoder, weights, plan)
    adapter_bytes = plan.num_seqs * 4 * row_elems(decoder.config.shape, ranks)
    return report(plan, times, bandwidths, products, _step_bytes(weights), adapter_bytes)


def decode_step_s(lab: EngineLab, digests: Sequence[str | None], plan: Plan) -> float:
    """The median time of steps in which each sequence decodes a token, around the context asked."""
    # While the last prompts are computed, the first sequences decode: a dozen tokens at most.
    num_prompt_tokens = plan.num_context_tokens - plan.num_steps // 2 - 6
    num_tokens = plan.num_steps + 32
    ids = [lab.add_request(num_prompt_tokens, num_tokens, digest) for digest in digests]
    lab.step_until(lambda: all(lab.num_tokens[each] >= 2 for each in ids))
    times = []
    for _ in range(plan.num_steps):
        before = lab.total_tokens
        start_s = time.perf_counter()
        lab.step()
        times.append(time.perf_counter() - start_s)
        if lab.total_tokens - before != len(ids):
            raise RuntimeError(f"a step gave {lab.total_tokens - before} of {len(ids)} tokens")
    lab.abort(ids)
    return statistics.median(times)


def _take_turns(
    sides: dict[str, Side], decoder: Decoder, weights: DecoderWeights, plan: Plan
) -> tuple[dict[str, list[float]], list[float], dict[str, list[float]]]:
    """Step times by side, read bandwidths and product times, of each repeat but the first."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    bandwidths: list[float] = []
    products: dict[str, list[float]] = {}
    for repeat in range(plan.num_repeats + 1):
        print(f"repeat {repeat} of {plan.num_repeats}", file=sys.stderr, flush=True)
        bandwidth = read_bandwidth_bytes_per_s()
        forms = product_times_s(decoder.config, weights, plan.num_seqs, num_rounds=9)
        for name, side in list(sides.items())[:: 1 if repeat % 2 else -1]:
            step_s = side()
            if repeat:
                times[name].append(step_s)
        if repeat:
            bandwidths.append(bandwidth)
            for name, seconds in forms.items():
                products.setdefault(name, []).append(seconds)
    return times, bandwidths, products


def report(
    plan: Plan,
    times: dict[str, list[float]],
    bandwidths: list[float],
    products: dict[str, list[float]],
    weight_bytes: int,
    adapter_bytes: int,
) -> dict[str, Any]:
    """The figures: medians of each repeat's own ratio, and the least and largest beside them."""
    python = measure_bookkeeping(plan.num_seqs, plan.num_seqs)
    python_many = measure_bookkeeping(plan.num_many_seqs, plan.num_many_seqs)
    repeats = [
        {
            "one": times["one"][i],
            "one_int8": times["one_int8"][i],
            "base": times["base"][i],
            "idle": times["idle"][i],
            "shared": times["shared"][i],
            "distinct": times["distinct"][i],
            "weights": weight_bytes / bandwidths[i],
            "adapters": adapter_bytes / bandwidths[i],
            "products": min(of_form[i] for of_form in products.values()),
        }
        for i in range(plan.num_repeats)
    ]
    ratios = {
        "b1_over_bytes": [t["one"] / t["weights"] for t in repeats],
        "int8_over_float32": [t["one_int8"] / t["one"] for t in repeats],
        "b32_over_matmul": [t["base"] / t["products"] for t in repeats],
        "lora_over_bytes": [(t["distinct"] - t["base"]) / t["adapters"] for t in repeats],
        "shared_adapter_tax": [t["shared"] / t["base"] - 1 for t in repeats],
        "idle_tax": [t["idle"] / t["base"] - 1 for t in repeats],
        "python_share": [python.total_s / t["base"] for t in repeats],
    }
    return {
        **{name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "python_ms_256": round(python_many.total_s * 1e3, 3),
        "spread": {name: [round(min(v), 3), round(max(v), 3)] for name, v in ratios.items()},
        "step_ms": {name: [round(t * 1e3, 2) for t in each] for name, each in times.items()},
        "products_ms": {n: [round(t * 1e3, 2) for t in each] for n, each in products.items()},
        "read_gb_per_s": [round(each / 1e9, 1) for each in bandwidths],
        "machine": describe_machine("torch", "numba"),
    }


def _model(storage: torch.dtype) -> tuple[DecoderWeights, Decoder]:
    model_dir = default_model_dir()
    config = load_config(model_dir)
    with Checkpoint(model_dir) as checkpoint:
        weights = read_weights(config, checkpoint, _CPU, torch.float32, storage)
    return weights, Decoder(config, weights)


def _step_bytes(weights: DecoderWeights) -> int:
    """Bytes of the matrices that a step reads."""
    head = weights.embedding if weights.lm_head is None else weights.lm_head
    in_layers = sum(
        matrix.num_bytes
        for layer in weights.layers
        for matrix in (layer.qkv, layer.o, layer.gate_up, layer.down)
    )
    return in_layers + head.num_bytes


def _peer(plan: Plan, num_threads: int) -> dict[str, Any]:
    from benchmarks import throughput

    compared = throughput.Plan(num_repeats=plan.num_repeats, num_threads=num_threads)
    found = throughput.measure(compared, default_model_dir())
    return {name: found[name] for name in ("vs_peft", "base_vs_transformers", "tok_s_by_repeat")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=Plan.num_repeats)
    parser.add_argument("--quick", action="store_true", help="to try the program, not Motet")
    parser.add_argument("--no-peer", action="store_true", help="leave transformers out")
    arguments = parser.parse_args()
    num_threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(num_threads)
    numba.set_num_threads(num_threads)
    repeats = 1 if arguments.quick else arguments.repeats
    size = {"num_seqs": 4, "num_many_seqs": 8, "num_steps": 4} if arguments.quick else {}
    plan = Plan(num_repeats=repeats, **size)
    figures = measure(plan)
    if not arguments.no_peer:
        figures |= _peer(plan, num_threads)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
