"""The model under test: random weights at the plan's shape.

Owns: the one copy of the weights, which all engines of a run share.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from benchmarks.gpu.plan import Plan
from motet.models.decoder import Decoder
from motet.models.matrix import Matrix
from motet.models.weights import DecoderWeights, LayerWeights, random_weights


@dataclass(frozen=True)
class Model:
    """A decoder, and the bytes of the weights that each step must read."""

    decoder: Decoder
    weight_bytes: int


def random_model(plan: Plan, device: torch.device, seed: int) -> Model:
    """Finite logits come out of it, but no sense."""
    weights = random_weights(plan.config, device, plan.dtype, seed)
    weight_bytes = sum(num_bytes(each) for each in _read_in_a_step(weights))
    return Model(Decoder(plan.config, weights), weight_bytes)


def num_bytes(weight: Tensor | Matrix) -> int:
    """Bytes that a step reads of a weight."""
    if isinstance(weight, Tensor):
        return weight.numel() * weight.element_size()
    return weight.num_bytes


def _read_in_a_step(weights: DecoderWeights) -> Iterator[Tensor | Matrix]:
    """All but the embedding, of which a step looks up a few rows, unless it is the head, too."""
    yield weights.final_norm
    yield weights.embedding if weights.lm_head is None else weights.lm_head
    for layer in weights.layers:
        for field in fields(LayerWeights):
            tensor = getattr(layer, field.name)
            if tensor is not None:
                yield tensor
