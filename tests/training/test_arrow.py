"""Arrow's prototypes against the singular vectors of the product itself."""

from pathlib import Path

import pytest
import torch

from motet.core.shape import MODULES, Module
from motet.training.arrow import prototype, prototype_gates
from motet.training.experts import load_experts
from tests.training.tiny import SHAPE, write_experts


def test_a_prototype_is_the_first_right_singular_vector(tmp_path: Path) -> None:
    experts = load_experts(write_experts(tmp_path), SHAPE)
    for delta in experts.deltas[0].deltas.values():
        first = torch.linalg.svd(delta.b.double() @ delta.a.double()).Vh[0]
        # It has no sign: the rule compares magnitudes.
        assert abs(float(first @ prototype(delta).double())) == pytest.approx(1.0, abs=1e-5)


def test_an_expert_that_leaves_a_projection_alone_has_a_gate_of_zero(tmp_path: Path) -> None:
    experts = load_experts(write_experts(tmp_path), SHAPE)
    gates = prototype_gates(experts, SHAPE, experts.touched)
    assert set(gates) == {(layer, module) for layer in range(2) for module in MODULES}
    assert not gates[0, Module.V][1].any()
    assert gates[0, Module.V].shape == (2, SHAPE.in_features(Module.V))
    assert gates[1, Module.DOWN].norm(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
