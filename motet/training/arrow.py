"""Arrow's gates, which are not learnt: they follow from the experts (arXiv:2405.11157).

Owns: the prototype of an expert in a projection.
Does not know: how it is compared with a token.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from motet.adapters.delta import Delta
from motet.core.shape import ModelShape, Module
from motet.training.experts import Experts


def prototype_gates(
    experts: Experts, shape: ModelShape, keys: Iterable[tuple[int, Module]]
) -> dict[tuple[int, Module], Tensor]:
    """Prototypes as gates, float32 [num_experts, in_features]; 0 where an expert has none."""
    gates = {}
    for layer, module in keys:
        gate = torch.zeros(len(experts), shape.in_features(module))
        for expert, each in enumerate(experts.deltas):
            if delta := each.deltas.get((layer, module)):
                gate[expert] = prototype(delta)
        gates[layer, module] = gate
    return gates


def prototype(delta: Delta) -> Tensor:
    """The direction [in_features] of the input that B A stretches most: unit length.

    It is the first right singular vector of B A = (Q_b R_b)(Q_a R_a)^T, hence Q_a times that of
    the small matrix R_b R_a^T.
    """
    q_a, r_a = torch.linalg.qr(delta.a.T.double())
    r_b = torch.linalg.qr(delta.b.double()).R
    right: Tensor = q_a @ torch.linalg.svd(r_b @ r_a.T).Vh[0]
    return right.float()
