"""The fit finds the device that steps were computed with."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulator import devices
from benchmarks.simulator.cost_model import CostModel, StepWork
from benchmarks.simulator.least_squares import Measured, fit_device
from benchmarks.simulator.models import SMOLLM2_135M

_RATE = st.floats(0.5, 2.0)


@given(factors=st.tuples(*[_RATE] * 4))
@settings(max_examples=25, deadline=None)
def test_rates_are_found_again(factors: tuple[float, float, float, float]) -> None:
    preset = devices.cpu()
    true = replace(
        preset,
        weights_bytes_per_s=preset.weights_bytes_per_s * factors[0],
        flops_per_s=preset.flops_per_s * factors[1],
        kv_bytes_per_s=preset.kv_bytes_per_s * factors[2],
        adapter_bytes_per_s=preset.adapter_bytes_per_s * factors[3],
        lora_layer_s=1e-5,
    )
    model = CostModel(SMOLLM2_135M, 4, true)
    works = [
        StepWork(
            num_sequences=count,
            num_tokens=count * each,
            num_context_tokens=count * context,
            num_pairs=count * each * context,
            adapter_elems=num_adapters * 10**6,
            lora_products=count * each * 10**6 if num_adapters else 0,
        )
        for count in (1, 3, 8)
        for each, context in ((1, 10), (1, 500), (100, 100), (200, 300))
        for num_adapters in (0, 1, count)
    ]
    steps = [Measured(work, model.step_s(work)) for work in works]
    fitted = CostModel(SMOLLM2_135M, 4, fit_device(preset, SMOLLM2_135M, 4, steps))
    for step in steps:
        assert fitted.step_s(step.work) == pytest.approx(step.seconds, rel=1e-3)
