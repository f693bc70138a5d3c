"""The linear projections of a decoder layer, with and without adapters.

Owns: where shrink and expand go around a projection.
Does not know: how the parts make a layer (`decoder.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from motet.core.shape import ModelShape, Module
from motet.kernels.types import Projection
from motet.models.context import ForwardContext
from motet.models.matrix import Matrix


@dataclass(frozen=True, slots=True)
class Linear:
    """y = W x + b over rows, [num_tokens, in_features] to [num_tokens, out_features].

    Attributes:
        weight: [out_features, in_features].
        bias: [out_features], or None.
    """

    weight: Matrix
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return self.weight.multiply(x, self.bias)


class LoraLinear:
    """Sibling projections merged into one product, each with its adapters' low-rank terms.

    y = W x + b, and for every token t with an adapter y[t] += weight * B (A x[t]).

    Args:
        linear: the merged projection.
        modules: its siblings, in the order of their outputs.
        shape: gives the siblings' widths.
        layer: the decoder layer, which the tables are indexed by.
    """

    def __init__(
        self, linear: Linear, modules: Sequence[Module], shape: ModelShape, layer: int
    ) -> None:
        self._linear = linear
        self._projections = _side_by_side(modules, shape)
        self._layer = layer

    def __call__(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """[num_tokens, in_features] to [num_tokens, sum of the siblings' out_features]."""
        lora = ctx.lora
        if lora is None:
            return self._linear(x)
        where = (ctx.pool, lora.tables, lora.pairs, self._layer, self._projections)
        v = ctx.kernels.shrink(x, *where)
        y = self._linear(x)
        ctx.kernels.expand(v, *where, y)
        return y


def _side_by_side(modules: Sequence[Module], shape: ModelShape) -> tuple[Projection, ...]:
    projections = []
    out_start = 0
    for module in modules:
        out_features = shape.out_features(module)
        projections.append(Projection(int(module), out_start, out_features))
        out_start += out_features
    return tuple(projections)
