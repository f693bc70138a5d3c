"""The whole program runs, on a tiny model with very little to do."""

import json
from pathlib import Path

import pytest

from benchmarks.many_adapters.__main__ import PARTS, measure
from benchmarks.many_adapters.plan import (
    CachedTtftPlan,
    ColdLoadPlan,
    LeaksPlan,
    Plan,
    TracePlan,
    UnifiedPlan,
)
from tests.benchmarks.tiny import write_tiny_model

PAGE_BYTES = 2 * 1024 * 4  # of the tiny model: layers, elements, float32

TRACE = TracePlan(
    num_requests=12,
    rate_per_s=200.0,
    prompt_tokens=(4, 40),
    output_tokens=(2, 30),
    num_repeats=2,
)

SMOKE = Plan(
    num_s1=50,
    num_s2=200,
    num_many=40,
    num_files_per_rank=2,
    pool_bytes=300 * PAGE_BYTES,
    host_bytes=300 * PAGE_BYTES,
    max_running=8,
    throughput=TRACE,
    unified=UnifiedPlan(
        trace=TRACE,
        num_adapters=20,
        pool_bytes=150 * PAGE_BYTES,
        host_bytes=200 * PAGE_BYTES,
        split_shares=(0.5,),
    ),
    cold_load=ColdLoadPlan(num_streams=4, num_output_tokens=200, gap_s=0.05, num_repeats=1),
    cached_ttft=CachedTtftPlan(
        num_system_tokens=128, num_tail_tokens=8, num_later=2, num_prompts=2, min_cached_tokens=112
    ),
    leaks=LeaksPlan(
        num_cycles=20,
        num_requests=40,
        num_adapters=10,
        num_tiny_adapters=3,
        prompt_tokens=(4, 40),
        num_at_once=4,
        pool_bytes=60 * PAGE_BYTES,
        host_bytes=40 * PAGE_BYTES,
    ),
    limit_s=300.0,
)


@pytest.mark.slow
def test_all_parts_on_a_tiny_model(tmp_path: Path) -> None:
    report = measure(SMOKE, write_tiny_model(tmp_path / "model", seed=2), list(PARTS))
    json.dumps(report)
    assert report["registered"] == 250
    assert report["startup_s"] > 0
    for name in ("throughput", "floor", "floor_with_loads"):
        by_setting = report[f"{name}_n2000_over_n5"]
        assert set(by_setting) == {"S1", "S2"}
        assert all(value > 0 for value in by_setting.values())
    assert all(value <= 1 for value in report["floor_n2000_over_n5"].values())
    # Rank 8 on q, k, v and o is 3.5 pages here.
    assert report["pages_lost_rank8"] == 0
    assert report["unified_over_static"] > 0
    assert report["cold_load_itl_p99_ratio"] > 0
    assert report["cached_ttft_ratio"] > 0
    assert report["leaked_pages"] == 0
    assert isinstance(report["rss_growth_mib"], float)
    assert report["device"]
    assert set(report["details"]) == set(PARTS)
    for side in report["details"]["throughput"]["S2"]["runs"].values():
        assert [run["num_adapters_asked"] > 0 for run in side] == [True] * TRACE.num_repeats


@pytest.mark.slow
def test_some_parts_can_be_left_out(tmp_path: Path) -> None:
    report = measure(SMOKE, write_tiny_model(tmp_path / "model", seed=2), ["page_loss"])
    assert set(report) == {"pages_lost_rank8", "device", "details", "work", "machine"}
