"""What a step costs: worked out by hand, and never less for more work."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulator import devices
from benchmarks.simulator.cost_model import CostModel, StepWork
from benchmarks.simulator.devices import Device
from benchmarks.simulator.models import (
    LLAMA_7B,
    LLAMA_13B,
    LLAMA_70B,
    adapter_elems,
    kv_elems,
    step_elems,
)
from tests.benchmarks.simulator.small import DEVICE, SHAPE

# All rates are 1e9 a second.
PLAIN = Device(
    name="plain",
    weights_bytes_per_s=1e9,
    kv_bytes_per_s=1e9,
    adapter_bytes_per_s=1e9,
    flops_per_s=1e9,
    step_s=0.0,
    lora_layer_s=0.0,
    copy_s=0.0,
    copy_bytes_per_s=1e9,
    read_s=0.0,
    read_bytes_per_s=1e9,
)
GPUS = [
    devices.a10g(),
    devices.a100_80(),
    devices.h100(),
    devices.tensor_parallel(devices.a100_80(), 8),
]
DECODE = StepWork(num_sequences=1, num_tokens=1, num_context_tokens=0)


def test_published_sizes() -> None:
    assert step_elems(LLAMA_7B) == pytest.approx(6.61e9, rel=0.01)
    assert step_elems(LLAMA_13B) == pytest.approx(12.85e9, rel=0.01)
    assert step_elems(LLAMA_70B) == pytest.approx(68.7e9, rel=0.01)
    assert 2 * kv_elems(LLAMA_7B) == 512 << 10  # bytes of a token, as S-LoRA's cell
    assert 2 * adapter_elems(LLAMA_7B, 8) == 16 << 20
    assert 2 * adapter_elems(LLAMA_7B, 64) == 128 << 20


def test_a_decode_reads_the_weights_and_a_long_prefill_multiplies_them() -> None:
    model = CostModel(SHAPE, 2, PLAIN)
    elems = step_elems(SHAPE)
    assert model.step_s(DECODE) == pytest.approx(2 * elems / 1e9)
    prefill = StepWork(num_sequences=1, num_tokens=500, num_context_tokens=0)
    assert model.step_s(prefill) == pytest.approx(2 * elems * 500 / 1e9)


def test_context_and_adapters_are_read_once() -> None:
    model = CostModel(SHAPE, 2, PLAIN)
    context = replace(DECODE, num_context_tokens=1000)
    assert model.step_s(context) - model.step_s(DECODE) == pytest.approx(
        1000 * 2 * kv_elems(SHAPE) / 1e9
    )
    adapters = replace(DECODE, adapter_elems=5000)
    assert model.step_s(adapters) - model.step_s(DECODE) == pytest.approx(2 * 5000 / 1e9)


def test_launches_are_paid_for_once_anyone_uses_an_adapter() -> None:
    model = CostModel(SHAPE, 2, replace(PLAIN, lora_layer_s=1.0))
    plain = CostModel(SHAPE, 2, PLAIN)
    adapters = replace(DECODE, adapter_elems=1)
    assert model.step_s(DECODE) == plain.step_s(DECODE)
    assert model.step_s(adapters) == pytest.approx(plain.step_s(adapters) + SHAPE.num_layers)


def test_several_gpus_share_the_work_and_wait_for_each_other() -> None:
    one = CostModel(SHAPE, 2, PLAIN)
    four = CostModel(SHAPE, 2, replace(PLAIN, num_gpus=4, collective_s=1.0, link_bytes_per_s=1e30))
    work = replace(DECODE, num_context_tokens=100, num_pairs=100, adapter_elems=100)
    shared_s = one.step_s(work) / 4
    assert four.step_s(work) == pytest.approx(shared_s + SHAPE.num_layers * (2 + 2))


def test_no_tokens_take_no_time() -> None:
    nothing = StepWork(num_sequences=0, num_tokens=0, num_context_tokens=0)
    assert CostModel(SHAPE, 2, DEVICE).step_s(nothing) == 0.0


def test_swapping_is_one_pass_for_each_adapter_and_none_for_none() -> None:
    model = CostModel(LLAMA_7B, 2, devices.a10g())
    elems = adapter_elems(LLAMA_7B, 8)
    assert model.swap_s(0, 0) == 0.0
    assert model.swap_s(elems, elems) == pytest.approx(2 * model.swap_s(0, elems))


COUNTS = st.integers(0, 10**6)


@given(
    gpu=st.sampled_from(GPUS),
    num_tokens=st.integers(1, 5000),
    counts=st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
    more=st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
)
def test_more_work_never_takes_less_time(
    gpu: Device, num_tokens: int, counts: tuple[int, ...], more: tuple[int, ...]
) -> None:
    model = CostModel(LLAMA_7B, 2, gpu)
    less = (num_tokens, *counts)

    def step_s(values: tuple[int, ...]) -> float:
        tokens, sequences, context, pairs, elems, products = values
        work = StepWork(
            num_sequences=sequences,
            num_tokens=tokens,
            num_context_tokens=context,
            num_pairs=pairs,
            adapter_elems=elems,
            lora_products=products,
        )
        return model.step_s(work)

    assert step_s(tuple(a + b for a, b in zip(less, more, strict=True))) >= step_s(less) > 0
