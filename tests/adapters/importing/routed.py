"""A loaded routed set in one projection or one MLP, by a plain loop in float64."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from motet.adapters.importing.imported import ImportOptions
from motet.adapters.importing.layouts import import_router
from motet.adapters.routed_set import RoutedSet, load_routed_set
from motet.adapters.router_config import RouterConfig
from motet.core.routing import RoutingRule, Score, Share
from motet.core.shape import Module
from motet.kernels.gating import gate_weights
from motet.kernels.types import LoraPairs, RoutedTokens
from tests.adapters.importing.published import Published
from tests.adapters.make import TINY


def convert(layout: str, published: Published, out: Path, **options: object) -> RouterConfig:
    """Convert a checkpoint that a test has written."""
    given = {"adapters": published.adapters, **options}
    return import_router(layout, published.source, out, TINY, ImportOptions(**given))


def load_converted(out: Path, config: RouterConfig) -> RoutedSet:
    return load_routed_set(out, [out / str(member.path) for member in config.members], TINY)


def weights_of(routed: RoutedSet, layer: int, module: Module, x: Tensor) -> Tensor:
    """Weights of the gates, [num_tokens, num_gates]."""
    products = x @ routed.gates[layer, module].double().T
    num_tokens, num_gates = products.shape
    counts = torch.full((num_tokens,), num_gates, dtype=torch.int32)
    return gate_weights(products, counts, _tokens(routed.config.rule, num_tokens))


def routed_delta(routed: RoutedSet, layer: int, module: Module, x: Tensor) -> Tensor:
    """What a set adds to W x."""
    weights = weights_of(routed, layer, module, x)
    out = torch.zeros(len(x), TINY.out_features(module), dtype=torch.float64)
    for expert, weight in zip(routed.experts, weights.T, strict=False):
        delta = expert.deltas[layer, module]
        out += x @ delta.a.double().T @ delta.b.double().T * weight[:, None]
    return out


def routed_mlp(routed: RoutedSet, layer: int, x: Tensor, base: Mapping[Module, Tensor]) -> Tensor:
    """A whole MLP of a set that routes blocks, the base's down projection taken once."""
    weights = weights_of(routed, layer, Module.GATE, x)
    mixed = torch.zeros(len(x), TINY.intermediate_size, dtype=torch.float64)
    out = torch.zeros_like(x)
    for expert, weight in zip(routed.experts, weights.T, strict=True):

        def delta(values: Tensor, module: Module, expert: object = expert) -> Tensor:
            each = expert.deltas[layer, module]
            return values @ each.a.double().T @ each.b.double().T

        gate = x @ base[Module.GATE].T + delta(x, Module.GATE)
        up = x @ base[Module.UP].T + delta(x, Module.UP)
        hidden = F.silu(gate) * up * weight[:, None]
        mixed += hidden
        out += delta(hidden, Module.DOWN)
    return mixed @ base[Module.DOWN].T + out


def _tokens(rule: RoutingRule, num_tokens: int) -> RoutedTokens:
    zeros = torch.zeros(num_tokens, dtype=torch.int32)
    no_pairs = LoraPairs(zeros, zeros, zeros.float(), torch.zeros(1, dtype=torch.int32), 1)
    columns = [
        rule.top_k,
        list(Score).index(rule.score),
        list(Share).index(rule.share),
        int(rule.by_rank),
        int(rule.has_bias),
    ]
    return RoutedTokens(
        gates=no_pairs,
        sets=zeros,
        expert_slots=zeros[:1, None],
        rules=torch.tensor([columns], dtype=torch.int32),
        inverse_temperatures=torch.tensor([1 / rule.temperature]),
        thresholds=torch.tensor([-torch.inf if rule.threshold is None else rule.threshold]),
        max_choices=rule.top_k,
        max_rank=1,
        usage=torch.zeros(num_tokens, 1),
    )
