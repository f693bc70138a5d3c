"""A transformers decoder whose projections add what their gates choose: plain torch, trainable.

Owns: `RoutedModel`, which puts experts and gates around the linear layers of a base model.
Does not know: losses, data, files.

y = W x + sum_e w_e B_e A_e x, with w of the gates' products with x. All experts are computed and
those that are not chosen weighted with 0: at these ranks that costs less than sorting tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from motet.adapters.peft_targets import MODULE_PATHS
from motet.adapters.router_gates import gate_path
from motet.core.routing import RoutingRule, Score, Share
from motet.core.shape import Module
from motet.training.encoding import Batch
from motet.training.experts import Bank, Experts


def gate_name(layer: int, module: Module) -> str:
    """A gate's name in `router.safetensors`."""
    return f"{gate_path(layer, module, per_block=False)}.weight"


def scores(products: Tensor, rule: RoutingRule) -> Tensor:
    """What of the gates' products is compared."""
    return products.abs() if rule.score == Score.ABSOLUTE else products


def choose(products: Tensor, rule: RoutingRule) -> Tensor:
    """Weights [..., num_experts] of gates' products with their input, 0 for those not chosen."""
    compared = scores(products, rule)
    chosen = compared.topk(min(rule.top_k, compared.shape[-1]), dim=-1).indices
    is_chosen = torch.zeros_like(compared, dtype=torch.bool).scatter(-1, chosen, True)
    exponents = compared / rule.temperature
    if rule.share == Share.OF_CHOSEN:
        exponents = exponents.masked_fill(~is_chosen, -torch.inf)
    return exponents.softmax(-1).masked_fill(~is_chosen, 0.0)


@dataclass
class Routing:
    """How the routed layers of one model choose at the moment; they all look here.

    Attributes:
        rule: how gates choose.
        told: int64, of a shape that broadcasts to the tokens': the expert of each token, which it
            gets with weight 1 whatever the gates say. Negative leaves it to the gates.
        products: what the gates of each projection computed since it was made empty, in order of
            layer and module, float32 [..., num_experts]; None records nothing.
        is_local: gates learn from their own products alone; nothing flows through the model.
    """

    rule: RoutingRule
    told: Tensor | None = None
    products: list[Tensor] | None = None
    is_local: bool = False


class RoutedLinear(nn.Module):
    """A frozen linear layer, the experts' factors beside it, and a gate for each expert."""

    a: Tensor
    b: Tensor
    owners: Tensor

    def __init__(self, base: nn.Linear, bank: Bank, gate: Tensor | None, routing: Routing) -> None:
        super().__init__()
        self.base = base
        self.routing = routing
        self.gate = None if gate is None else nn.Parameter(gate)
        dtype = base.weight.dtype
        self.register_buffer("a", bank.a.to(dtype), persistent=False)
        self.register_buffer("b", bank.b.to(dtype), persistent=False)
        self.register_buffer("owners", bank.owners, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        weights = self._weights(x)
        if weights is None:
            return y
        of_ranks = (weights @ self.owners).to(x.dtype)
        return y + linear(linear(x, self.a) * of_ranks, self.b)

    def _weights(self, x: Tensor) -> Tensor | None:
        told, weights = self.routing.told, None
        if self.gate is not None:
            weights = self._gated(x)
        if told is None:
            return weights
        of_told = one_hot(told.clamp(min=0), self.owners.shape[0]).float()
        if weights is None:
            weights = torch.zeros_like(of_told)
        return torch.where(told[..., None] < 0, weights, of_told)

    def _gated(self, x: Tensor) -> Tensor:
        assert self.gate is not None
        is_local = self.routing.is_local
        with torch.enable_grad() if is_local else nullcontext():
            products = linear(x.float(), self.gate)
        if self.routing.products is not None:
            self.routing.products.append(products)
        return choose(products.detach() if is_local else products, self.routing.rule)


class RoutedModel:
    """A causal language model of transformers with experts and gates; only gates are trainable.

    Args:
        model: changed in place: its routed projections are replaced, its weights frozen.
        experts: what the gates choose among.
        rule: how they choose.
        gates: float32 [num_experts, in_features] by (layer, module), where there is a gate;
            only where an expert is.
    """

    def __init__(
        self,
        model: Any,
        experts: Experts,
        rule: RoutingRule,
        gates: Mapping[tuple[int, Module], Tensor],
    ) -> None:
        self.model = model
        self.routing = Routing(rule)
        self._layers: dict[tuple[int, Module], RoutedLinear] = {}
        model.requires_grad_(False)
        for layer, module in experts.touched:
            parent_name, name = MODULE_PATHS[module].split(".")
            parent = getattr(model.model.layers[layer], parent_name)
            bank, gate = experts.bank(layer, module), gates.get((layer, module))
            routed = RoutedLinear(getattr(parent, name), bank, gate, self.routing)
            setattr(parent, name, routed)
            self._layers[layer, module] = routed

    @property
    def gates(self) -> dict[tuple[int, Module], nn.Parameter]:
        """The trainable parameters, in order of layer and module."""
        return {key: each.gate for key, each in self._layers.items() if each.gate is not None}

    @property
    def named_gates(self) -> dict[str, nn.Parameter]:
        """The trainable parameters under their names in a router's file."""
        return {gate_name(*key): gate for key, gate in self.gates.items()}

    def hidden_states(self, batch: Batch) -> Tensor:
        """After the last layer, [1, num_tokens, hidden_size], in the model's dtype."""
        hidden: Tensor = self.model.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the next token, [..., vocab_size], in the model's dtype."""
        logits: Tensor = self.model.lm_head(hidden)
        return logits

    def scores(self, products: Tensor) -> Tensor:
        """What the rule compares."""
        return scores(products, self.routing.rule)

    @contextmanager
    def telling(self, experts: Tensor | None) -> Iterator[None]:
        """Within this, tokens get the experts that they are told; see `Routing.told`."""
        before, self.routing.told = self.routing.told, experts
        try:
            yield
        finally:
            self.routing.told = before

    @contextmanager
    def told_locally(self, experts: Tensor) -> Iterator[None]:
        """Like `telling`; besides, gates learn from their own products alone."""
        self.routing.is_local = True
        try:
            with self.telling(experts), torch.no_grad():
                yield
        finally:
            self.routing.is_local = False

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Within this, what gates compute is appended to the list; see `Routing.products`."""
        products: list[Tensor] = []
        self.routing.products = products
        try:
            yield products
        finally:
            self.routing.products = None
