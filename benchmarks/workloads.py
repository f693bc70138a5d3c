"""Writes a workload as JSON lines, or says what is in it.

    python -m benchmarks.workloads                          lists all of them
    python -m benchmarks.workloads zipf exponent=1.2        a summary of one
    python -m benchmarks.workloads zipf --out zipf.jsonl    writes it, and the summary

Owns: the summary.
Does not know: how workloads are drawn (`motet/bench/`).
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from motet.bench.named import WORKLOADS, make_workload
from motet.bench.workload import Workload, encode_workload


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help="of the workload; without it, all are listed")
    parser.add_argument("parameters", nargs="*", metavar="key=value", help="those that differ")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, help="the file to write")
    options = parser.parse_args(arguments)
    if options.name is None:
        print(list_workloads())
        return
    try:
        parameters = dict(_split(text) for text in options.parameters)
        workload = make_workload(options.name, parameters, options.seed)
        if options.out is not None:
            options.out.write_bytes(encode_workload(workload))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(json.dumps(summarise(workload), indent=2))


def list_workloads() -> str:
    """A line for each workload."""
    width = max(map(len, WORKLOADS))
    return "\n".join(f"{name:{width}}  {kind.description}" for name, kind in WORKLOADS.items())


def summarise(workload: Workload) -> dict[str, Any]:
    """The figures by which one workload is told from another; plain JSON values."""
    requests = workload.requests
    counts = Counter(request.adapter for request in requests)
    last_s = requests[-1].arrival_s
    return {
        "name": workload.name,
        "seed": workload.seed,
        "num_requests": len(requests),
        "num_adapters": len(workload.adapters),
        "num_tenants": len({request.tenant for request in requests} - {None}),
        "last_arrival_s": last_s,
        "requests_per_s": round(len(requests) / last_s, 3) if last_s else None,
        "mean_prompt_tokens": round(statistics.mean(r.num_prompt_tokens for r in requests), 1),
        "mean_output_tokens": round(statistics.mean(r.num_output_tokens for r in requests), 1),
        "longest_request_tokens": max(r.num_prompt_tokens + r.num_output_tokens for r in requests),
        "share_of_most_popular_adapter": round(counts.most_common(1)[0][1] / len(requests), 4),
    }


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"Cannot read {text!r}: expected key=value, such as rate_per_s=4.")
    return name, value


if __name__ == "__main__":
    main()
