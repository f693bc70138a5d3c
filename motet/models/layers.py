"""The linear projections of a decoder layer, with and without adapters.

Owns: where shrink and expand go around a projection.
Does not know: how the parts make a layer (`decoder.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motet.core.shape import ModelShape, Module
from motet.kernels.types import LoraPairs, Projection
from motet.models.config import DecoderConfig
from motet.models.context import ForwardContext, LoraContext
from motet.models.matrix import Matrix
from motet.models.weights import LayerWeights


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

    y = W x + b, and for every token t and each of its adapters y[t] += weight * B (A x[t]). They
    are the same in all layers, or a router chooses them here.

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
        self._projections = side_by_side(modules, shape)
        self._layer = layer

    def __call__(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """[num_tokens, in_features] to [num_tokens, sum of the siblings' out_features]."""
        lora = ctx.lora
        if lora is None:
            return self._linear(x)
        terms = self._shrink(x, ctx, lora)
        y = self._linear(x)
        for v, pairs in terms:
            ctx.kernels.expand(v, ctx.pool, lora.tables, pairs, self._layer, self._projections, y)
        return y

    def _shrink(
        self, x: Tensor, ctx: ForwardContext, lora: LoraContext
    ) -> list[tuple[Tensor, LoraPairs]]:
        """A x of all pairs."""
        pool, tables, where = ctx.pool, lora.tables, (self._layer, self._projections)
        terms = []
        if lora.pairs is not None:
            v = ctx.kernels.shrink(x, pool, tables, lora.pairs, *where)
            terms.append((v, lora.pairs))
        if lora.routed is not None:
            terms.append(ctx.kernels.shrink_routed(x, pool, tables, lora.routed, *where))
        return terms


def side_by_side(modules: Sequence[Module], shape: ModelShape) -> tuple[Projection, ...]:
    """Siblings whose outputs lie side by side, in this order."""
    projections = []
    out_start = 0
    for module in modules:
        out_features = shape.out_features(module)
        projections.append(Projection(int(module), out_start, out_features))
        out_start += out_features
    return tuple(projections)


def head_norm(config: DecoderConfig, weights: LayerWeights) -> Tensor | None:
    """RMSNorm weights with a row for each head of q and of k: one norm serves both."""
    if weights.q_norm is None or weights.k_norm is None:
        return None
    q_rows = weights.q_norm.expand(config.shape.num_heads, -1)
    k_rows = weights.k_norm.expand(config.shape.num_kv_heads, -1)
    return torch.cat((q_rows, k_rows))
