"""The loop in virtual time: by hand where that is possible, and what must hold of every run."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.merge_and_swap.one_adapter import OneAdapter
from benchmarks.simulator.simulation import simulate
from motet.bench.named import make_workload
from motet.bench.workload import WorkRequest
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policy import QueuedRequest, Refusal
from tests.benchmarks.simulator.small import request, setup, workload


def test_a_request_alone() -> None:
    (record,) = simulate(workload([request(0, 5.0)]), setup()).records
    assert record.sent_s == 5.0
    assert record.piece_times_s == [6.0, 7.0, 8.0]
    assert record.ended_s == 8.0
    assert record.is_finished
    assert record.num_output_tokens == 3


def test_a_long_prompt_takes_several_steps() -> None:
    (record,) = simulate(workload([request(0, num_prompt_tokens=70)]), setup()).records
    assert record.piece_times_s == [3.0, 4.0, 5.0]  # 32 + 32 + 6 tokens


def test_whoever_comes_during_a_step_waits_for_its_end() -> None:
    requests = [request(0), request(1, 0.5)]
    first, second = simulate(workload(requests), setup()).records
    assert first.piece_times_s == [1.0, 2.0, 3.0]
    assert second.sent_s == 0.5
    assert second.piece_times_s == [2.0, 3.0, 4.0]


def test_a_cold_adapter_is_read_and_copied_first_and_others_run_on() -> None:
    requests = [request(0, adapter="cold"), request(1)]
    outcome = simulate(workload(requests), setup(starts_on_host=False))
    cold, base = outcome.records
    assert base.piece_times_s == [1.0, 2.0, 3.0]
    assert cold.piece_times_s == [14.0, 15.0, 16.0]  # read 10, copied 3, a step
    assert (outcome.num_reads, outcome.num_copies) == (1, 1)


def test_an_adapter_in_host_memory_is_only_copied() -> None:
    outcome = simulate(workload([request(0, adapter="warm")]), setup())
    assert outcome.records[0].piece_times_s[0] == 4.0
    assert (outcome.num_reads, outcome.num_copies) == (0, 1)


def test_a_follower_waits_for_the_end_of_the_one_before() -> None:
    requests = [request(0), request(1, 1.0, after=0), request(2, 9.0, after=0)]
    first, second, third = simulate(workload(requests), setup()).records
    assert second.sent_s == first.ended_s == 3.0
    assert third.sent_s == 9.0


def test_prompts_of_one_stream_are_found_in_the_prefix_cache() -> None:
    requests = [
        request(0, num_prompt_tokens=32, stream=7),
        request(1, 50.0, num_prompt_tokens=40, stream=7),
        request(2, 100.0, num_prompt_tokens=40, stream=8),
    ]
    cached = simulate(workload(requests), setup(keeps_prefixes=True)).records
    assert [record.num_cached_tokens for record in cached] == [0, 32, 0]
    plain = simulate(workload(requests), setup(keeps_prefixes=False)).records
    assert [record.num_cached_tokens for record in plain] == [0, 0, 0]


def test_prefixes_are_shared_whatever_follows() -> None:
    requests = [
        request(i, 50.0 * i, num_prompt_tokens=40, prefix="system", num_prefix_tokens=32)
        for i in range(2)
    ]
    first, second = simulate(workload(requests), setup(keeps_prefixes=True)).records
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 32)


def test_what_fits_in_no_pool_is_refused_at_once() -> None:
    requests = [request(0, num_prompt_tokens=900), request(1, after=0)]
    large, follower = simulate(workload(requests), setup()).records
    assert large.error == "pool_too_small"
    assert large.ended_s == 0.0
    assert follower.is_finished


class _Impatient(Fcfs):
    """Gives up all that wait once anyone has waited for two seconds."""

    def refusals(self, now_s: float) -> list[Refusal]:
        late = [r for r in self._waiting if now_s - r.queued_s >= 2.0]
        return [Refusal(each, "too late", 30.0) for each in late]


def test_refusals_of_the_policy_are_told_at_the_time() -> None:
    requests = [request(i) for i in range(3)]
    crowded = setup(max_running=1, policy=lambda: _Impatient)
    first, second, third = simulate(workload(requests), crowded).records
    assert first.is_finished
    for refused in (second, third):
        assert refused.error == "overloaded"
        assert refused.retry_after_s == 30.0
        assert refused.ended_s == 2.0


class _Stubborn(Fcfs):
    """Calls nobody."""

    def next(self, in_play: object) -> QueuedRequest | None:
        return None


def test_a_scheduler_that_serves_nobody_is_noticed() -> None:
    with pytest.raises(RuntimeError, match=r"1 requests wait at 0\.000 s"):
        simulate(workload([request(0)]), setup(policy=lambda: _Stubborn))


def test_merged_adapters_come_one_after_another_and_lora_costs_nothing() -> None:
    requests = [request(i, adapter=f"adapter-{i % 3}") for i in range(9)]
    outcome = simulate(workload(requests), setup(merges=True, policy=lambda: OneAdapter))
    spans: dict[str | None, list[float]] = {}
    for record in outcome.records:
        spans.setdefault(record.adapter, []).extend(record.piece_times_s)
    ordered = sorted((min(times), max(times)) for times in spans.values())
    assert all(before[1] < after[0] for before, after in pairwise(ordered))


def test_unused_adapters_cost_no_time_of_the_simulated() -> None:
    drawn = make_workload("zipf", {"rate_per_s": 0.5, "duration_s": 60, "length_scale": 0.1}, 3)
    few = simulate(drawn, setup())
    many = simulate(drawn, setup(), num_unused_adapters=20_000)
    assert many.records == few.records


REQUESTS = st.builds(
    lambda arrival, adapter, prompt, output, stream, after: (
        arrival,
        {
            "adapter": adapter,
            "num_prompt_tokens": prompt,
            "num_output_tokens": output,
            "stream": stream,
        },
        after,
    ),
    st.floats(0, 50),
    st.sampled_from([None, "a", "b", "c", "d", "e"]),
    st.integers(1, 300),
    st.integers(1, 60),
    st.integers(0, 3),
    st.booleans(),
)


@given(
    drawn=st.lists(REQUESTS, min_size=1, max_size=25),
    keeps_prefixes=st.booleans(),
    starts_on_host=st.booleans(),
    num_pool_tokens=st.sampled_from([480, 800, 1600]),
)
@settings(max_examples=60, deadline=None)
def test_every_request_ends_once_and_equal_runs_are_equal(
    drawn: list[tuple[float, dict[str, object], bool]],
    keeps_prefixes: bool,
    starts_on_host: bool,
    num_pool_tokens: int,
) -> None:
    drawn.sort(key=lambda each: each[0])
    requests: list[WorkRequest] = [
        request(index, arrival_s, **fields, after=index - 1 if follows and index else None)
        for index, (arrival_s, fields, follows) in enumerate(drawn)
    ]
    server = setup(
        keeps_prefixes=keeps_prefixes,
        starts_on_host=starts_on_host,
        num_pool_tokens=num_pool_tokens,
        host_bytes=1 << 14,  # two adapters
    )
    outcome = simulate(workload(requests), server)
    assert [record.index for record in outcome.records] == list(range(len(requests)))
    for record, asked in zip(outcome.records, requests, strict=True):
        assert record.sent_s >= asked.arrival_s
        if record.is_finished:
            assert record.num_output_tokens == asked.num_output_tokens
            assert list(record.piece_times_s) == sorted(record.piece_times_s)
            assert record.sent_s < record.piece_times_s[0]
            assert record.piece_times_s[-1] == record.ended_s
        else:
            assert record.error == "pool_too_small"
    again = simulate(workload(requests), server)
    assert (again.records, again.samples) == (outcome.records, outcome.samples)
