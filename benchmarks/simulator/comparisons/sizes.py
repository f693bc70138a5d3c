"""Requests in queues by their size against first come, first served, near overload."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.simulator.figures import percentile, ttfts
from benchmarks.simulator.lab import Lab, Table
from benchmarks.simulator.settings import a10g_7b, slora_workload
from benchmarks.simulator.setup import policy
from motet.bench.record import RequestRecord

_RATES_PER_S = (1.4, 1.7, 2.0)


def compare_sizes(lab: Lab) -> Table:
    """The p99 of the time to the first token, of all and of thirds by size."""
    rows: list[Sequence[str | float]] = []
    lower = {}
    for rate_per_s in _RATES_PER_S:
        workload = slora_workload("S2", 200, rate_per_s, lab.duration_s(300))
        all_p99_s = {}
        for spec in ("fcfs", "size_aware"):
            setup = replace(a10g_7b(), policy=policy(spec))
            outcome = lab.run(f"R={rate_per_s} {spec}", workload, setup)
            times = ttfts(outcome.records)
            all_p99_s[spec] = percentile(times, 99)
            by_third = [percentile(ttfts(third), 99) for third in thirds(outcome.records)]
            rows.append(
                (f"R={rate_per_s} {spec}", percentile(times, 50), all_p99_s[spec], *by_third)
            )
        lower[rate_per_s] = all_p99_s["size_aware"] < all_p99_s["fcfs"]
    return Table(
        title="Time to the first token by size (A10G S2, 200 adapters)",
        columns=[
            "setting",
            "median TTFT [s]",
            "p99 TTFT [s]",
            "p99, small third",
            "p99, middle third",
            "p99, large third",
        ],
        rows=rows,
        claims={
            f"R={rate_per_s}: size_aware has the lower p99": holds
            for rate_per_s, holds in lower.items()
        },
    )


def thirds(records: Sequence[RequestRecord]) -> list[list[RequestRecord]]:
    """The records by the tokens of prompt and answer, the smallest third first."""
    by_size = sorted(
        records, key=lambda record: record.num_prompt_tokens + record.num_output_tokens
    )
    third = -(-len(by_size) // 3)
    return [by_size[start : start + third] for start in range(0, len(by_size), third)]
