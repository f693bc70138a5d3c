"""Adapters are as popular as the formula says, and requests come as they should."""

import statistics
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from motet.bench.named import make_workload
from motet.bench.popularity import punica_counts, zipf_shares
from tests.bench.workloads import gaps_s

MANY = {"rate_per_s": 20, "duration_s": 1000}


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.5])
def test_zipfs_law(exponent: float) -> None:
    workload = make_workload("zipf", {"num_adapters": 30, "exponent": exponent, **MANY}, 5)
    counts = Counter(request.adapter for request in workload.requests)
    total = sum(1 / i**exponent for i in range(1, 31))
    for index in (0, 1, 4):
        expected = 20_000 / (index + 1) ** exponent / total
        assert counts[f"adapter-{index}"] == pytest.approx(expected, rel=0.15)


def test_the_shares_of_many_adapters_sum_up_to_one() -> None:
    shares = zipf_shares(100_000, 1.1)
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) < 0).all()


def test_uniform_leaves_no_adapter_out() -> None:
    workload = make_workload("uniform", {"num_adapters": 20, **MANY}, 6)
    counts = Counter(request.adapter for request in workload.requests)
    assert len(counts) == 20
    assert min(counts.values()) > 0.85 * max(counts.values())


def test_punicas_mixes_by_hand() -> None:
    assert punica_counts("distinct", 5) == [1, 1, 1, 1, 1]
    assert punica_counts("identical", 5) == [5]
    assert punica_counts("uniform", 16) == [4, 4, 4, 4]
    assert punica_counts("uniform", 17) == [4, 4, 3, 3, 3]
    # 1, 1.5, 2.25, 3.375, 5.06 rounded down are 12 together; the next, 7, is cut to what is left.
    assert punica_counts("skewed", 16) == [5, 4, 3, 2, 1, 1]


@pytest.mark.parametrize("num_requests", [1, 2, 3, 50, 1000, 4321])
def test_punicas_mixes_give_every_request_an_adapter(num_requests: int) -> None:
    for mix in ("distinct", "uniform", "skewed", "identical"):
        counts = punica_counts(mix, num_requests)
        assert sum(counts) == num_requests
        assert min(counts) >= 1
        assert counts == sorted(counts, reverse=True)
    assert len(punica_counts("uniform", num_requests)) == np.ceil(num_requests**0.5)


def test_skewed_is_a_geometric_series() -> None:
    counts = punica_counts("skewed", 10_000)
    ratios = [more / less for more, less in pairwise(counts[2:9])]
    assert statistics.mean(ratios) == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize("mix", ["distinct", "uniform", "skewed", "identical"])
def test_a_workload_of_a_mix_is_that_mix_in_random_order(mix: str) -> None:
    workload = make_workload(f"punica-{mix}", {}, 9)
    asked = [request.adapter for request in workload.requests]
    assert sorted(Counter(asked).values(), reverse=True) == punica_counts(mix, 600)
    if mix != "identical":
        assert asked != sorted(asked)


@pytest.mark.parametrize("cv", [0.0, 1e-200, 1e-9, 0.5, 1.0, 3.0])
def test_gaps_have_the_mean_of_the_rate_and_the_asked_variation(cv: float) -> None:
    gaps = gaps_s(make_workload("uniform", {"cv": cv, **MANY}, 4).requests)
    assert statistics.mean(gaps) == pytest.approx(0.05, rel=0.1)
    assert statistics.pstdev(gaps) / statistics.mean(gaps) == pytest.approx(cv, rel=0.1, abs=1e-4)


def test_lengths_are_even_from_the_first_to_just_below_the_second() -> None:
    workload = make_workload("zipf", {"prompt_tokens": "3,6", "output_tokens": "1,3", **MANY}, 4)
    prompts = Counter(request.num_prompt_tokens for request in workload.requests)
    outputs = Counter(request.num_output_tokens for request in workload.requests)
    assert sorted(prompts) == [3, 4, 5]
    assert sorted(outputs) == [1, 2]
    assert min(prompts.values()) > 0.9 * max(prompts.values())


def test_lengths_can_be_scaled_for_a_small_machine() -> None:
    small = make_workload("slora", {"length_scale": 0.125, **MANY}, 42)
    lengths = [request.num_prompt_tokens for request in small.requests]
    assert (min(lengths), max(lengths)) == (1, 63)
    one = make_workload("slora", {"length_scale": 0.0001}, 42)
    assert {request.num_output_tokens for request in one.requests} == {1}
