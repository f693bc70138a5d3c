"""The prefix cache on and off, in conversations."""

from dataclasses import replace

from benchmarks.simulator.figures import percentile, throughput, ttfts
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import a10g_7b
from motet.bench.named import make_workload


def compare_prefix_cache(lab: Lab) -> Table:
    """Times to the first token, and requests a second."""
    parameters = {"num_adapters": 32, "rate_per_s": 0.7, "duration_s": lab.duration_s(300)}
    workload = make_workload("conversations", parameters, seed=0)
    rows = []
    medians = {}
    for name, keeps_prefixes in (("off", False), ("on", True)):
        setup = replace(a10g_7b(), keeps_prefixes=keeps_prefixes)
        outcome = lab.run(f"prefix cache {name}", workload, setup)
        times = ttfts(outcome.records)
        medians[name] = percentile(times, 50)
        num_cached = sum(record.num_cached_tokens for record in outcome.records)
        num_tokens = sum(record.num_prompt_tokens for record in outcome.records)
        rows.append(
            (
                name,
                num_cached / num_tokens,
                medians[name],
                percentile(times, 99),
                throughput(outcome),
            )
        )
    return Table(
        title="The prefix cache in conversations (A10G, 32 adapters of rank 16)",
        columns=[
            "prefix cache",
            "prompt tokens cached",
            "median TTFT [s]",
            "p99 TTFT [s]",
            "requests/s",
        ],
        rows=rows,
        claims={"the median TTFT is lower with the cache": medians["on"] < medians["off"]},
    )
