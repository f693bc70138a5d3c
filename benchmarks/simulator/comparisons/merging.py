"""Merge-and-swap against batched LoRA: one adapter in the weights, or all in a batch."""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.merge_and_swap.one_adapter import OneAdapter
from benchmarks.simulator.figures import throughput
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import a10g_7b, slora_workload

# By the number of adapters: S-LoRA's requests a second, merged and batched.
_PUBLISHED: Mapping[int, tuple[float, float]] = {1: (1.58, 1.41), 2: (1.15, 1.44), 5: (0.73, 1.42)}


def compare_merging(lab: Lab) -> Table:
    """Requests a second."""
    batched_setup = a10g_7b()
    merged_setup = replace(batched_setup, policy=lambda: OneAdapter, merges=True)
    rows = []
    wins = {}
    for num_adapters, (published_merged, published_batched) in _PUBLISHED.items():
        workload = slora_workload("S2", num_adapters, 2, lab.duration_s(60))
        merged = throughput(lab.run(f"n={num_adapters} merged", workload, merged_setup))
        batched = throughput(lab.run(f"n={num_adapters} batched", workload, batched_setup))
        wins[num_adapters] = merged > batched
        rows.append((f"n={num_adapters}", published_merged, merged, published_batched, batched))
    return Table(
        title="Requests/s: merge-and-swap against batched LoRA (A10G S2, R=2, 60 s)",
        columns=["setting", "merged, S-LoRA", "merged", "batched, S-LoRA", "batched"],
        rows=rows,
        claims={
            "merging wins with one adapter": wins[1],
            "batching wins with more": not any(wins[n] for n in wins if n > 1),
        },
    )
