"""Runs to measure and to report on: records by hand, and made-up runs that look like real ones."""

import heapq
import random
from collections.abc import Sequence
from typing import Any

from motet.bench.record import RequestRecord, Run, RunInfo, Sample, Slo

PATIENCE_S = 6.0


def record(index: int = 0, **changes: Any) -> RequestRecord:
    """A request for adapter "a" that was sent at 0 s, and finished at 2 s with two tokens."""
    fields: dict[str, Any] = {
        "index": index,
        "adapter": "a",
        "model": "served-a",
        "sent_s": 0.0,
        "piece_times_s": [1.0, 2.0],
        "ended_s": 2.0,
        "num_prompt_tokens": 8,
        "num_output_tokens": 2,
    }
    return RequestRecord(**fields | changes)


def refused(index: int = 0, **changes: Any) -> RequestRecord:
    """A request that was refused at once."""
    fields: dict[str, Any] = {
        "piece_times_s": (),
        "ended_s": 0.0,
        "num_prompt_tokens": 0,
        "num_output_tokens": 0,
        "status": 503,
        "error": "overloaded",
        "retry_after_s": 1.0,
    }
    return record(index, **fields | changes)


def info(**changes: Any) -> RunInfo:
    """The setting of a made-up run."""
    fields: dict[str, Any] = {
        "label": "fcfs",
        "target": "http://127.0.0.1:8000",
        "workload": "slora",
        "seed": 42,
        "is_open_loop": True,
        "slo": Slo(),
        "started_at": "2026-01-02T03:04:05+00:00",
        "wall_s": 10.0,
        "settings": {
            "command": "motet bench run slora --url http://127.0.0.1:8000 --seed 42",
            "parameters": {"num_adapters": 40, "alpha": 1.0},
        },
        "environment": {"machine": {"cpus": 2}, "python": "3.11.7"},
    }
    return RunInfo(**fields | changes)


def run_of(
    requests: Sequence[RequestRecord], samples: Sequence[Sample] = (), **changes: Any
) -> Run:
    """A run with these requests; `changes` are of its setting."""
    return Run(info=info(**changes), requests=requests, samples=samples)


def made_up_run(
    *,
    num_requests: int = 600,
    num_adapters: int = 40,
    num_tenants: int = 4,
    requests_per_s: float = 4.0,
    num_servers: int = 12,
    refuses: bool = False,
    seed: int = 0,
    **changes: Any,
) -> Run:
    """A queue in front of `num_servers` places: adapters as by Zipf, cold ones slower to start.

    Args:
        refuses: whether a request that would wait longer than `PATIENCE_S` is refused.
    """
    ask, draw = random.Random(f"asks {seed}"), random.Random(f"answers {seed}")
    weights = [1 / (rank + 1) for rank in range(num_adapters)]
    free_at_s = [0.0] * num_servers
    resident: set[str] = set()
    requests, samples, now_s = [], [], 0.0
    for index in range(num_requests):
        now_s += ask.expovariate(requests_per_s)
        adapter = f"adapter-{ask.choices(range(num_adapters), weights)[0]:04d}"
        names = {
            "adapter": adapter if ask.random() < 0.95 else None,
            "tenant": f"tenant-{ask.randrange(num_tenants)}" if num_tenants else None,
            "sent_s": now_s,
        }
        start_s = max(now_s, free_at_s[0])
        if refuses and start_s - now_s > PATIENCE_S:
            requests.append(refused(index, **names, ended_s=now_s + 0.01))
        elif draw.random() < 0.004:
            names |= {"error": "the connection was reset", "status": None}
            requests.append(record(index, **names, piece_times_s=(), ended_s=start_s))
        else:
            start_s += 0.08 if adapter in resident else draw.uniform(0.3, 0.9)
            resident.add(adapter)
            gaps_s = [draw.gammavariate(4, 0.015) for _ in range(draw.randint(4, 120))]
            times_s = [start_s + draw.uniform(0.02, 0.1)]
            for gap_s in gaps_s:
                times_s.append(times_s[-1] + gap_s * (8 if draw.random() < 0.01 else 1))
            heapq.heapreplace(free_at_s, times_s[-1])
            requests.append(
                record(
                    index,
                    **names,
                    piece_times_s=times_s,
                    ended_s=times_s[-1],
                    num_prompt_tokens=draw.randint(8, 512),
                    num_output_tokens=len(times_s),
                )
            )
        if index % 4 == 0:
            samples.append(_sample(now_s, free_at_s, requests, len(resident), draw))
    changes.setdefault("wall_s", max(each.ended_s for each in requests))
    return run_of(requests, samples, **changes)


def _sample(
    now_s: float,
    free_at_s: Sequence[float],
    requests: Sequence[RequestRecord],
    num_resident: int,
    draw: random.Random,
) -> Sample:
    num_running = sum(time_s > now_s for time_s in free_at_s)
    waiting = [each for each in requests[-400:] if each.ttft_s and each.sent_s <= now_s]
    kv_share = 0.6 * num_running / len(free_at_s) * draw.uniform(0.8, 1)
    cached_share = min(0.3, num_resident * 0.004)
    return Sample(
        at_s=now_s,
        num_running=num_running,
        num_waiting=sum(each.piece_times_s[0] > now_s for each in waiting),
        num_resident_adapters=num_resident,
        kv_share=kv_share,
        adapter_share=0.08,
        cached_share=cached_share,
        free_share=1 - kv_share - 0.08 - cached_share,
    )
