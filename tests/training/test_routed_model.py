"""Routed projections against the formula, and against the meaning that the kernels share."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from motet.core.routing import RoutingRule, Score, Share
from motet.core.shape import MODULES, Module
from motet.kernels.gating import gate_weights
from motet.kernels.types import RoutedTokens
from motet.training.encoding import NO_LABEL, Batch, Encoded, pack
from motet.training.experts import Experts, load_experts
from motet.training.routed_model import RoutedModel, choose
from tests.adapters.make import tiny_llama
from tests.training.tiny import SHAPE, write_experts

RULES = [
    RoutingRule(top_k=2),
    RoutingRule(top_k=1),
    RoutingRule(top_k=3, temperature=0.4),
    RoutingRule(top_k=2, score=Score.ABSOLUTE, temperature=2.5),
    RoutingRule(top_k=2, share=Share.OF_ALL),
    RoutingRule(top_k=9),
]


def shared_meaning(products: Tensor, rule: RoutingRule) -> Tensor:
    """`choose`, by the function that the kernels are tested against."""
    num_tokens, num_gates = products.shape
    columns = [rule.top_k, list(Score).index(rule.score), list(Share).index(rule.share), 0, 0]
    sets = torch.zeros(num_tokens, dtype=torch.int32)
    unused = sets[:0]
    routed = RoutedTokens(
        gates=None,  # type: ignore[arg-type]  # products are given
        sets=sets,
        expert_slots=unused[None],
        rules=torch.tensor([columns], dtype=torch.int32),
        inverse_temperatures=torch.tensor([1 / rule.temperature]),
        thresholds=torch.tensor([-torch.inf]),
        max_choices=num_gates,
        max_rank=1,
        usage=unused[None],
    )
    return gate_weights(products, torch.full_like(sets, num_gates), routed)


@pytest.mark.parametrize("rule", RULES)
def test_choosing_means_what_it_means_when_served(rule: RoutingRule) -> None:
    products = torch.randn(50, 5) * 3
    torch.testing.assert_close(choose(products, rule), shared_meaning(products, rule))


@pytest.fixture
def experts(tmp_path: Path) -> Experts:
    return load_experts(write_experts(tmp_path), SHAPE)


def routed_model(
    experts: Experts, rule: RoutingRule
) -> tuple[RoutedModel, dict[tuple[int, Module], Tensor]]:
    gates = {
        (layer, module): torch.randn(2, SHAPE.in_features(module))
        for layer in range(SHAPE.num_layers)
        for module in MODULES
        if module != Module.UP  # one that is not routed
    }
    return RoutedModel(tiny_llama(SHAPE), experts, rule, gates), gates


def layer_of(model: RoutedModel, layer: int, module: Module) -> torch.nn.Module:
    names = {Module.Q: "self_attn.q_proj", Module.V: "self_attn.v_proj", Module.UP: "mlp.up_proj"}
    found = model.model.model.layers[layer].get_submodule(names[module])
    assert isinstance(found, torch.nn.Module)
    return found


def added(experts: Experts, layer: int, module: Module, x: Tensor, weights: Tensor) -> Tensor:
    """sum_e w_e B_e A_e x, expert by expert."""
    total = torch.zeros(*x.shape[:-1], SHAPE.out_features(module))
    for expert, each in enumerate(experts.deltas):
        if delta := each.deltas.get((layer, module)):
            total += weights[..., expert : expert + 1] * (x @ delta.a.T @ delta.b.T)
    return total


@pytest.mark.parametrize("module", [Module.Q, Module.V, Module.UP])
def test_a_projection_adds_what_its_gates_choose(experts: Experts, module: Module) -> None:
    """The second expert has no V: chosen there, it adds nothing. UP has no gates: neither does."""
    rule = RoutingRule(top_k=2, temperature=0.7)
    model, gates = routed_model(experts, rule)
    x = torch.randn(1, 5, 32)
    layer = layer_of(model, 1, module)
    assert isinstance(layer.base, torch.nn.Linear)
    gate = gates.get((1, module))
    weights = torch.zeros(1, 5, 2) if gate is None else choose(x @ gate.T, rule)
    expected = layer.base(x) + added(experts, 1, module, x, weights)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_told_expert_is_used_everywhere_and_others_are_left_to_the_gates(
    experts: Experts,
) -> None:
    rule = RoutingRule(top_k=1)
    model, gates = routed_model(experts, rule)
    x = torch.randn(1, 3, 32)
    told = torch.tensor([[1, NO_LABEL, 0]])
    for module in (Module.Q, Module.UP):
        layer = layer_of(model, 0, module)
        assert isinstance(layer.base, torch.nn.Linear)
        gate = gates.get((0, module))
        weights = torch.zeros(1, 3, 2) if gate is None else choose(x @ gate.T, rule).clone()
        weights[0, 0], weights[0, 2] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
        expected = layer.base(x) + added(experts, 0, module, x, weights)
        with model.telling(told):
            torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert model.routing.told is None


def a_batch() -> Batch:
    ids = torch.randint(0, 256, (6,)).tolist()
    return pack([Encoded(ids, [0] * 6, ids)])


def test_only_gates_are_trainable(experts: Experts) -> None:
    model, gates = routed_model(experts, RoutingRule(top_k=2))
    trainable = [p for p in model.model.parameters() if p.requires_grad]
    assert len(trainable) == len(gates) == len(model.named_gates)
    model.logits(model.hidden_states(a_batch())).sum().backward()
    assert all(p.grad is None for p in model.model.parameters() if not p.requires_grad)
    assert all(gate.grad is not None for gate in model.gates.values())


def test_local_gradients_are_those_of_each_gate_by_itself(experts: Experts) -> None:
    model, _ = routed_model(experts, RoutingRule(top_k=2))
    batch = a_batch()
    with model.told_locally(batch.labels), model.recording() as products:
        model.hidden_states(batch)
    inputs = {}
    key = (1, Module.V)
    layer_of(model, *key).register_forward_hook(lambda _, args, __: inputs.update(x=args[0]))
    with torch.no_grad(), model.telling(batch.labels):
        model.hidden_states(batch)

    products[list(model.gates).index(key)][..., 0].sum().backward()
    gradient = {k: gate.grad for k, gate in model.gates.items() if gate.grad is not None}
    assert set(gradient) == {key}
    torch.testing.assert_close(gradient[key][0], inputs["x"][0].sum(0))
    assert torch.equal(gradient[key][1], torch.zeros(32))


def test_a_named_expert_is_that_adapter_alone(experts: Experts) -> None:
    """Told for all tokens, the model is the base with that adapter merged."""
    model, _ = routed_model(experts, replace(RULES[0], top_k=1))
    merged = tiny_llama(SHAPE)
    names = dict(zip(MODULES, ("q", "k", "v", "o", "gate", "up", "down"), strict=True))
    with torch.no_grad():
        for (layer, module), delta in experts.deltas[1].deltas.items():
            block = merged.model.layers[layer]
            parent = block.self_attn if module <= Module.O else block.mlp
            getattr(parent, f"{names[module]}_proj").weight += delta.b @ delta.a
    ids = torch.randint(0, 256, (1, 7))
    with torch.no_grad(), model.telling(torch.tensor(1)):
        torch.testing.assert_close(
            model.model(ids).logits, merged(ids).logits, rtol=1e-3, atol=1e-4
        )
