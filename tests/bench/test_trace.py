"""Traces are S-LoRA's to the last number, and the traps in its parameters are known."""

from collections import Counter

import numpy as np
import pytest

from motet.bench.trace import TraceSpec, draw_trace

LARGE = {"rate_per_s": 10.0, "duration_s": 2000.0}


@pytest.mark.parametrize(
    ("num_adapters", "alpha", "rate", "cv", "duration", "lengths"),
    [
        (200, 1.0, 2.0, 1.0, 300.0, (8, 512)),
        (2000, 0.3, 10.0, 4.0, 12.05, (8, 33)),
        (5, 0.8, 0.7, 0.5, 100.0, (1, 3)),
    ],
)
def test_the_numbers_are_those_of_s_lora(
    num_adapters: int,
    alpha: float,
    rate: float,
    cv: float,
    duration: float,
    lengths: tuple[int, int],
) -> None:
    trace = draw_trace(
        TraceSpec(
            num_adapters=num_adapters,
            alpha=alpha,
            rate_per_s=rate,
            cv=cv,
            duration_s=duration,
            prompt_tokens=lengths,
            output_tokens=lengths,
        )
    )
    # Word for word after its benchmarks/trace.py.
    np.random.seed(42)
    tot_req = int(rate * duration)
    ind = (np.random.power(alpha, tot_req) * num_adapters).astype(int)
    input_lens = np.random.randint(lengths[0], lengths[1], tot_req)
    output_lens = np.random.randint(lengths[0], lengths[1], tot_req)
    intervals = np.random.gamma(shape=1 / cv**2, scale=cv**2 / rate, size=tot_req)
    assert [request.adapter_index for request in trace] == ind.tolist()
    assert [request.num_prompt_tokens for request in trace] == input_lens.tolist()
    assert [request.num_output_tokens for request in trace] == output_lens.tolist()
    assert [request.arrival_s for request in trace] == pytest.approx(np.cumsum(intervals).tolist())


def test_known_values() -> None:
    first, second, *_ = draw_trace(TraceSpec(num_adapters=2000, rate_per_s=10, duration_s=120))
    assert (first.adapter_index, second.adapter_index) == (749, 1901)
    assert 0 < first.arrival_s < second.arrival_s


def test_alpha_1_is_uniform_and_less_is_more_skewed() -> None:
    def share_of_first(alpha: float) -> float:
        trace = draw_trace(TraceSpec(num_adapters=200, alpha=alpha, **LARGE))
        return sum(request.adapter_index == 0 for request in trace) / len(trace)

    assert share_of_first(1.0) == pytest.approx(1 / 200, abs=0.002)
    assert share_of_first(0.3) == pytest.approx(0.20, abs=0.02)
    assert share_of_first(0.1) == pytest.approx(0.59, abs=0.02)
    counts = Counter(r.adapter_index for r in draw_trace(TraceSpec(num_adapters=5, **LARGE)))
    assert min(counts.values()) > 0.9 * max(counts.values())


def test_the_longest_is_never_drawn() -> None:
    trace = draw_trace(
        TraceSpec(num_adapters=1, prompt_tokens=(8, 10), output_tokens=(2, 4), **LARGE)
    )
    assert {request.num_prompt_tokens for request in trace} == {8, 9}
    assert {request.num_output_tokens for request in trace} == {2, 3}


@pytest.mark.parametrize("cv", [0.5, 1.0, 4.0])
def test_gaps_have_the_mean_of_the_rate_and_the_asked_variation(cv: float) -> None:
    trace = draw_trace(TraceSpec(num_adapters=1, cv=cv, **LARGE))
    arrivals_s = [request.arrival_s for request in trace]
    gaps_s = np.diff([0.0, *arrivals_s])
    assert gaps_s.mean() == pytest.approx(1 / LARGE["rate_per_s"], rel=0.15)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.15)


def test_alpha_can_be_the_exponent_of_zipfs_law() -> None:
    trace = draw_trace(TraceSpec(num_adapters=50, alpha=1.0, is_zipf=True, **LARGE))
    counts = Counter(request.adapter_index for request in trace)
    harmonic = sum(1 / i for i in range(1, 51))
    for index in (0, 1, 9):
        expected = len(trace) / (index + 1) / harmonic
        assert counts[index] == pytest.approx(expected, rel=0.1)


def test_a_cv_of_0_is_an_even_pace() -> None:
    trace = draw_trace(TraceSpec(num_adapters=1, rate_per_s=4, duration_s=2, cv=0))
    assert [request.arrival_s for request in trace] == [0.25 * i for i in range(1, 9)]


def test_more_adapters_change_the_adapters_alone() -> None:
    few, many = (
        draw_trace(TraceSpec(num_adapters=count, rate_per_s=4, duration_s=16))
        for count in (5, 2000)
    )
    assert len(few) == len(many) == 64
    for one, other in zip(few, many, strict=True):
        assert one.adapter_index == other.adapter_index * 5 // 2000
        assert one.num_prompt_tokens == other.num_prompt_tokens
        assert one.num_output_tokens == other.num_output_tokens
        assert one.arrival_s == other.arrival_s
