"""S-LoRA's generator as a workload, and its traps."""

import pytest

from motet.bench.named import make_workload
from motet.bench.prompts import PromptWriter
from motet.bench.trace import TraceSpec, draw_trace


def test_the_requests_are_those_of_the_trace() -> None:
    workload = make_workload("slora-a100-80-table", {"num_adapters": 1000}, 42)
    trace = draw_trace(TraceSpec(num_adapters=1000, rate_per_s=10, duration_s=120, seed=42))
    for request, each in zip(workload.requests, trace, strict=True):
        assert request.adapter == f"s2-{each.adapter_index}"
        assert request.num_prompt_tokens == each.num_prompt_tokens
        assert request.num_output_tokens == each.num_output_tokens
        assert request.arrival_s == pytest.approx(each.arrival_s, abs=1e-6)


def test_no_adapters_are_the_base_model() -> None:
    base = make_workload("slora-a100-40-num-adapter", {"num_adapters": 0}, 42)
    one = make_workload("slora-a100-40-num-adapter", {"num_adapters": 1}, 42)
    assert base.adapters == []
    assert base.parameters["ranks"] == {}
    assert one.parameters["ranks"] == {"s4-0": 64}
    for request, other in zip(base.requests, one.requests, strict=True):
        assert (request.adapter, other.adapter) == (None, "s4-0")
        assert request.num_prompt_tokens == other.num_prompt_tokens


def test_alpha_and_cv_can_change_places() -> None:
    swapped = make_workload("slora", {"alpha": 2, "cv": 0.5, "swap_alpha_cv": True}, 1)
    straight = make_workload("slora", {"alpha": 0.5, "cv": 2}, 1)
    assert swapped.requests == straight.requests


def test_alpha_of_zipfs_law_is_another_popularity_and_nothing_else() -> None:
    power = make_workload("slora", {"alpha": 1}, 1).requests
    zipf = make_workload("slora", {"alpha": 1, "alpha_means": "zipf"}, 1).requests
    most = [sum(request.adapter == "s2-0" for request in each) for each in (power, zipf)]
    assert most[0] < 15 < 60 < most[1]
    assert [r.num_prompt_tokens for r in power] != []
    assert len(power) == len(zipf)


def test_hello_prompts_are_beginnings_of_each_other_and_random_ones_are_not() -> None:
    writer = PromptWriter(0)
    hello, random = (
        sorted(
            (writer.text(r) for r in make_workload("slora", {"prompts": each}, 42).requests),
            key=len,
        )
        for each in ("hello", "random")
    )
    assert all(hello[-1].startswith(prompt) for prompt in hello)
    assert len({prompt[:25] for prompt in random}) > 590
