"""A random routed set for each method: as a rule with gates, and as the module of its paper.

Owns: which rule each published equation is, and random numbers that tell them apart.
Does not know: kernels, pools, nor how a batch is run.

All sets share a few adapters, whose ranks differ by layer and of which one leaves projections out.
A set that differs from its method's usual one in an option has the option in its name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.routing_oracles import (
    ArrowLinear,
    Experts,
    FixedLinear,
    LoraFactors,
    MeteoraLinear,
    MixLoraMlp,
    MoraLinear,
    SmoraLinear,
    SoftTopKLinear,
)
from motet.core.routing import RoutingRule, Score, Share
from motet.core.shape import MODULES, ModelShape, Module

Key = tuple[int, Module]
"""A projection: its layer, and which it is there."""

Adapter = Mapping[Key, LoraFactors]
Gates = Mapping[Key, Tensor]
Replace = Callable[[str, nn.Module], nn.Module | None]

MODULE_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PER_PROJECTION = (
    "meteora",
    "meteora_loop",
    "lora_mixer",
    "lora_mixer_soft",
    "lora_mixer_raw",
    "mola",
    "arrow",
    "smora",
    "smora_softmax",
    "smora_softmax_of_all",
    "mora",
)
METHODS = (*PER_PROJECTION, "mixlora")
ATTENTION = (Module.Q, Module.K, Module.V, Module.O)
MLP = (Module.GATE, Module.UP, Module.DOWN)

NUM_EXPERTS = 5
PARTIAL = 1
"""The adapter that leaves projections out."""
ATTENTION_ONLY = NUM_EXPERTS
"""The adapter after the experts, which MixLoRA's set shares."""

_DELTA_SCALE = 0.4
_GATE_SCALE = 2.0  # scores are then seldom so near each other that rounding decides


@dataclass(frozen=True)
class RoutedCase:
    """A routed set, and the same in the words of its paper.

    Attributes:
        experts: indices of adapters, in the order of the gates.
        gates: rows of each projection, [num_gates, in_features], and one more with the biases.
        replace: puts the paper's modules into a transformers model.
        shared: index of an adapter that all tokens use besides.
    """

    rule: RoutingRule
    experts: Sequence[int]
    gates: Gates
    replace: Replace
    shared: int | None = None


def random_adapters(shape: ModelShape, generator: torch.Generator) -> list[Adapter]:
    """The experts of all sets, and an adapter on attention alone."""
    modules = [MODULES] * NUM_EXPERTS + [ATTENTION]
    modules[PARTIAL] = (Module.Q, Module.V, Module.O, Module.GATE, Module.DOWN)
    return [
        {
            (layer, module): _random_factors(shape, module, 5 + (4 * index + layer) % 9, generator)
            for layer in range(shape.num_layers)
            for module in its_modules
        }
        for index, its_modules in enumerate(modules)
    ]


def random_cases(
    shape: ModelShape, adapters: Sequence[Adapter], generator: torch.Generator
) -> dict[str, RoutedCase]:
    """A set of each method, by name."""
    draw = _Draw(shape, adapters, generator)
    return {
        "meteora": draw.meteora(temperature=1.7),
        "meteora_loop": draw.soft(RoutingRule(top_k=2), MODULES),
        "lora_mixer": draw.soft(RoutingRule(top_k=3), ATTENTION),
        "lora_mixer_soft": draw.soft(RoutingRule(top_k=NUM_EXPERTS), ATTENTION),
        "lora_mixer_raw": draw.soft(RoutingRule(top_k=3, share=Share.OF_ALL), ATTENTION),
        "mola": draw.soft(RoutingRule(top_k=2), MODULES, num_gates=(2, 3, NUM_EXPERTS)),
        "arrow": draw.arrow(),
        "smora": draw.smora("binary", Share.EQUAL),
        "smora_softmax": draw.smora("softmax", Share.OF_CHOSEN),
        "smora_softmax_of_all": draw.smora("softmax_of_all", Share.OF_ALL),
        "mora": draw.mora(),
        "mixlora": draw.mixlora(),
    }


def fixed(adapters: Sequence[Adapter], parts: Mapping[int, float]) -> Replace:
    """What puts a plain adapter or a composition, weights by index, into a model."""

    def make(key: Key, base: nn.Module) -> nn.Module:
        return FixedLinear(base, [adapters[i].get(key) for i in parts], list(parts.values()))

    return _in_linears(MODULES, make)


class _Draw:
    """Draws one set after another."""

    def __init__(
        self, shape: ModelShape, adapters: Sequence[Adapter], generator: torch.Generator
    ) -> None:
        self._shape = shape
        self._adapters = adapters
        self._generator = generator
        self._all = range(NUM_EXPERTS)

    def meteora(self, temperature: float) -> RoutedCase:
        rule = RoutingRule(top_k=2, temperature=temperature)
        gates = self._gates(MODULES, [NUM_EXPERTS] * self._shape.num_layers)

        def make(key: Key, base: nn.Module) -> nn.Module:
            return MeteoraLinear(base, self._experts(key), gates[key], rule.top_k, temperature)

        return RoutedCase(rule, self._all, gates, _in_linears(MODULES, make))

    def soft(
        self, rule: RoutingRule, modules: Sequence[Module], num_gates: Sequence[int] | None = None
    ) -> RoutedCase:
        """Softmax over the layer's experts first, of which there are all unless told."""
        by_layer = num_gates or [NUM_EXPERTS] * self._shape.num_layers
        gates = self._gates(modules, by_layer)
        renormalises = rule.share == Share.OF_CHOSEN

        def make(key: Key, base: nn.Module) -> nn.Module:
            experts = self._experts(key)[: by_layer[key[0]]]
            return SoftTopKLinear(base, experts, gates[key], rule.top_k, renormalises)

        return RoutedCase(rule, self._all, gates, _in_linears(modules, make))

    def arrow(self) -> RoutedCase:
        rule = RoutingRule(top_k=3, score=Score.ABSOLUTE, temperature=0.5)
        gates = {
            key: torch.stack(
                [_prototype(each, self._shape.in_features(key[1])) for each in self._experts(key)]
            )
            for key in self._adapters[0]
        }

        def make(key: Key, base: nn.Module) -> nn.Module:
            return ArrowLinear(base, self._experts(key), rule.top_k, rule.temperature)

        return RoutedCase(rule, self._all, gates, _in_linears(MODULES, make))

    def smora(self, values: str, share: Share) -> RoutedCase:
        rule = RoutingRule(top_k=3, share=share, by_rank=True, has_bias=True)
        expert = self._adapters[0]
        weights = {key: self._gate(key[1], len(expert[key].a)) for key in expert}
        biases = {key: torch.randn(len(g), generator=self._generator) for key, g in weights.items()}
        gates = {key: torch.cat((g, _as_row(biases[key], g))) for key, g in weights.items()}

        def make(key: Key, base: nn.Module) -> nn.Module:
            return SmoraLinear(base, expert[key], weights[key], biases[key], rule.top_k, values)

        return RoutedCase(rule, [0], gates, _in_linears(MODULES, make))

    def mora(self) -> RoutedCase:
        tau, delta = 0.4, 0.1
        rule = RoutingRule(
            top_k=4,
            score=Score.SELF,
            share=Share.OF_ALL,
            temperature=tau,
            threshold=delta,
            by_rank=True,
        )
        expert = self._adapters[0]

        def make(key: Key, base: nn.Module) -> nn.Module:
            return MoraLinear(base, expert[key], rule.top_k, tau, delta)

        return RoutedCase(rule, [0], {}, _in_linears(MODULES, make))

    def mixlora(self) -> RoutedCase:
        """With attention's own adapter, and one layer without a router."""
        rule = RoutingRule(top_k=2, per_block=True)
        gates = self._gates([Module.GATE], [NUM_EXPERTS] * self._shape.num_layers)
        del gates[1, Module.GATE]
        attention = self._adapters[ATTENTION_ONLY]

        def replace(name: str, module: nn.Module) -> nn.Module | None:
            if not name.endswith(".mlp"):
                return in_attention(name, module)
            layer = int(name.split(".")[-2])
            experts = [
                {MODULE_NAMES[m]: adapter[layer, m] for m in MLP if (layer, m) in adapter}
                for adapter in (self._adapters[i] for i in self._all)
            ]
            return MixLoraMlp(module, experts, gates.get((layer, Module.GATE)), rule.top_k)

        def make(key: Key, base: nn.Module) -> nn.Module:
            return FixedLinear(base, [attention[key]], [1.0])

        in_attention = _in_linears(ATTENTION, make)
        return RoutedCase(rule, self._all, gates, replace, shared=ATTENTION_ONLY)

    def _experts(self, key: Key) -> Experts:
        return [self._adapters[i].get(key) for i in self._all]

    def _gates(self, modules: Sequence[Module], num_gates: Sequence[int]) -> dict[Key, Tensor]:
        return {
            (layer, module): self._gate(module, num_gates[layer])
            for layer in range(self._shape.num_layers)
            for module in modules
        }

    def _gate(self, module: Module, num_gates: int) -> Tensor:
        in_features = self._shape.in_features(module)
        rows = torch.randn(num_gates, in_features, generator=self._generator)
        return rows * (_GATE_SCALE / math.sqrt(in_features))


def _in_linears(modules: Sequence[Module], make: Callable[[Key, nn.Module], nn.Module]) -> Replace:
    """What replaces these projections of all layers, wherever transformers has them."""

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        last = name.rpartition(".")[2]
        if last not in MODULE_NAMES or MODULES[MODULE_NAMES.index(last)] not in modules:
            return None
        return make((int(name.split(".")[-3]), MODULES[MODULE_NAMES.index(last)]), module)

    return replace


def _random_factors(
    shape: ModelShape, module: Module, rank: int, generator: torch.Generator
) -> LoraFactors:
    in_features, out_features = shape.in_features(module), shape.out_features(module)
    a = torch.randn(rank, in_features, generator=generator) / in_features**0.5
    b = torch.randn(out_features, rank, generator=generator) * (_DELTA_SCALE / rank**0.5)
    return LoraFactors(a, b)


def _prototype(factors: LoraFactors | None, in_features: int) -> Tensor:
    """The top right-singular vector of B A, found among the combinations of A's rows.

    With A^T = Q R: B A = (B R^T) Q^T, and Q keeps lengths. Its sign is arbitrary. Zeros where the
    expert adds nothing.
    """
    if factors is None:
        return torch.zeros(in_features)
    q, r = torch.linalg.qr(factors.a.T.double())
    _, _, right = torch.linalg.svd(factors.b.double() @ r.T, full_matrices=False)
    return torch.mv(q, right[0]).float()


def _as_row(biases: Tensor, gates: Tensor) -> Tensor:
    """A row as long as a gate that begins with the biases; nothing reads the rest."""
    row = torch.full_like(gates[:1], torch.nan)
    row[0, : len(biases)] = biases
    return row
