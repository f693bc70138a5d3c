"""Real steps of a tiny model: what is measured is what is said to be. Nothing is said of times."""

from pathlib import Path

from benchmarks.simulator import devices
from benchmarks.simulator.calibration import Plan, calibrate
from tests.benchmarks.tiny import write_tiny_model


def test_steps_of_every_kind_are_measured_and_fitted(tmp_path: Path) -> None:
    plan = Plan(
        num_sequences=(1, 3), num_context_tokens=(8, 40), num_prompt_tokens=(5, 30), num_steps=3
    )
    report = calibrate(devices.cpu(), plan, write_tiny_model(tmp_path, seed=1))
    steps = report["steps"]
    kinds = [(step["num_sequences"], step["num_tokens"]) for step in steps]
    assert kinds == [(1, 5), (1, 30), *[(1, 1), (3, 3)] * 2] * 2  # without adapters, and with them
    without, with_adapters = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    assert not any(step["adapter_elems"] for step in without)
    elems = with_adapters[0]["adapter_elems"]
    assert [step["adapter_elems"] for step in with_adapters] == [
        elems * num_sequences for num_sequences, _ in kinds[: len(kinds) // 2]
    ]
    for step in steps:
        count = step["num_sequences"]
        if step["num_tokens"] == count:  # decodes, at the context that was asked for and a few more
            context = step["num_context_tokens"] / count
            assert any(asked < context < asked + 20 for asked in plan.num_context_tokens)
        assert step["measured_ms"] >= 0
        assert step["simulated_ms"] >= 0
    assert all(value >= 0 for value in report["fitted"].values() if isinstance(value, float))
