"""What the tests of workloads have in common."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from motet.bench.workload import Workload, WorkRequest


def write_trace(path: Path, num_lines: int = 1500) -> Path:
    """A trace of three models that any replay has enough of."""
    rows = [f"{i * 0.5},model-{i % 3},{1 + i % 300},{1 + i % 200}" for i in range(num_lines)]
    path.write_text("\n".join(["timestamp,model,prompt_tokens,output_tokens", *rows]))
    return path


def needed(name: str, trace: Path) -> dict[str, Any]:
    """The parameters without which a workload of this name cannot be drawn."""
    return {"path": str(trace)} if name in ("replay", "slora-a10g-req-rate-real") else {}


def check(workload: Workload) -> None:
    """Assert what holds for every workload."""
    requests = workload.requests
    assert [request.index for request in requests] == list(range(len(requests)))
    assert all(one.arrival_s <= other.arrival_s for one, other in pairwise(requests))
    assert requests[0].arrival_s >= 0
    for request in requests:
        assert request.num_output_tokens >= 1
        assert 0 <= request.num_prefix_tokens <= request.num_prompt_tokens
        assert request.num_prompt_tokens >= 1
        assert (request.prefix is None) == (request.num_prefix_tokens == 0)
        assert request.after is None or request.after < request.index
    assert set(workload.parameters["ranks"]) == set(workload.adapters)


def gaps_s(requests: Sequence[WorkRequest]) -> list[float]:
    times_s = [0.0, *(request.arrival_s for request in requests)]
    return [after - before for before, after in pairwise(times_s)]
