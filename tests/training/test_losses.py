"""The losses against their formulas, written out."""

import math

import pytest
import torch

from motet.core.routing import RoutingRule
from motet.training.encoding import NO_LABEL
from motet.training.losses import balance_loss, label_loss


def test_the_label_loss_is_one_mean_over_gates_and_labelled_tokens() -> None:
    products = [torch.randn(1, 5, 3) for _ in range(4)]
    labels = torch.tensor([[2, NO_LABEL, 0, 1, NO_LABEL]])
    terms = [
        -math.log(torch.softmax(each[0, t], 0)[int(labels[0, t])])
        for each in products
        for t in (0, 2, 3)
    ]
    assert label_loss(products, labels).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize(("balance", "entropy"), [(0.5, 0.0), (0.0, 0.3), (0.5, -0.3)])
def test_the_balance_loss_is_the_papers(balance: float, entropy: float) -> None:
    products = [torch.randn(1, 6, 4) for _ in range(3)]
    rule = RoutingRule(top_k=2, temperature=1.7)
    total = 0.0
    for each in products:
        shares = torch.softmax(each[0] / rule.temperature, -1)
        assigned = [set(row.argsort(descending=True)[:2].tolist()) for row in shares]
        for expert in range(4):
            fraction = sum(expert in chosen for chosen in assigned) / 6
            total += balance * float(shares[:, expert].mean()) * fraction
        entropies = [-sum(float(p) * math.log(p) for p in row) for row in shares]
        total -= entropy * sum(entropies) / 6
    assert balance_loss(products, rule, balance, entropy).item() == pytest.approx(
        total / 3, rel=1e-4
    )


def test_a_negative_entropy_weight_rewards_decided_gates() -> None:
    rule = RoutingRule(top_k=1)
    undecided, decided = torch.zeros(1, 4, 3), torch.tensor([9.0, 0.0, 0.0]).expand(1, 4, 3)
    for sign in (1, -1):
        losses = [
            balance_loss([each], rule, 0.0, sign * 0.1).item() for each in (undecided, decided)
        ]
        assert (losses[0] < losses[1]) == (sign > 0)
