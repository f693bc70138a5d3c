"""Workloads for tests."""

from collections.abc import Sequence
from typing import Any

from motet.bench.workload import Workload, WorkRequest


def work(index: int, adapter: str | None = None, **fields: Any) -> WorkRequest:
    """A small request that is due at once, but for `fields`."""
    values: dict[str, Any] = {
        "arrival_s": 0.0,
        "num_prompt_tokens": 4,
        "num_output_tokens": 3,
        "stream": index,
        **fields,
    }
    return WorkRequest(index=index, adapter=adapter, **values)


def workload_of(requests: Sequence[WorkRequest]) -> Workload:
    return Workload(name="made-up", seed=1, parameters={"ranks": {"a": 8}}, requests=requests)
