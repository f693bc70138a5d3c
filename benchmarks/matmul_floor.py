"""The matrix products of a decode step alone, in the fastest form that is known.

Owns: the two forms that are tried: this project's packed matrices, and oneDNN's.
Does not know: the rest of a step.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from motet.kernels.linear_cpu import PackedMatrix
from motet.models.config import DecoderConfig
from motet.models.weights import DecoderWeights


def product_times_s(
    config: DecoderConfig, weights: DecoderWeights, num_rows: int, num_rounds: int
) -> dict[str, float]:
    """The median time of all products of a step, head included, by form [s].

    Args:
        config: the model.
        weights: packed, in float32.
        num_rows: tokens of the step.
        num_rounds: times that each form is tried, in turns.
    """
    matrices = _matrices(weights)
    inputs = {
        each.panels.shape[1]: torch.randn(num_rows, each.panels.shape[1]) for each in matrices
    }
    forms = {
        "packed": [(inputs[each.panels.shape[1]], _packed_product(each)) for each in matrices],
        "onednn": [
            (inputs[each.panels.shape[1]], _onednn_product(each, num_rows)) for each in matrices
        ],
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(num_rounds + 1):  # the first warms up
        for name, products in forms.items():
            start_s = time.perf_counter()
            for x, product in products:
                product(x)
            times[name].append(time.perf_counter() - start_s)
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def _matrices(weights: DecoderWeights) -> list[PackedMatrix]:
    """Those that a step multiplies, in its order."""
    head = weights.embedding if weights.lm_head is None else weights.lm_head
    found = [
        matrix
        for layer in weights.layers
        for matrix in (layer.qkv, layer.o, layer.gate_up, layer.down)
    ]
    packed = [each for each in (*found, head) if isinstance(each, PackedMatrix)]
    assert len(packed) == len(found) + 1, "the weights must be packed"
    return packed


def _packed_product(matrix: PackedMatrix) -> Callable[[Tensor], Tensor]:
    return lambda x: matrix.multiply(x, None)


def _onednn_product(matrix: PackedMatrix, num_rows: int) -> Callable[[Tensor], Tensor]:
    """A weight in oneDNN's own order, by operators that torch keeps for itself."""
    ops = torch.ops.mkldnn
    weight = matrix.rows(torch.arange(matrix.out_features)).contiguous()
    reordered = ops._reorder_linear_weight(weight, num_rows)
    return lambda x: ops._linear_pointwise(x, reordered, None, "none", [], "")
