"""What gates are taught by.

Owns: the losses of the published methods.
Does not know: models, nor where the products come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from motet.core.routing import RoutingRule
from motet.training.encoding import NO_LABEL


def label_loss(products: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of every gate's products against the token's expert, in one mean over all.

    MeteoRA's second loss (arXiv:2405.13053, and its code).

    Args:
        products: of each projection, float32 [1, num_tokens, num_experts].
        labels: int64 [1, num_tokens]; `NO_LABEL` is left out. At least one is not.
    """
    is_labelled = labels[0] != NO_LABEL
    of_labelled = torch.stack([each[0, is_labelled] for each in products])
    targets = labels[0, is_labelled].expand(len(products), -1)
    return cross_entropy(of_labelled.flatten(0, 1), targets.flatten())


def balance_loss(
    products: Sequence[Tensor], rule: RoutingRule, balance: float, entropy: float
) -> Tensor:
    """LoRA-Mixer's specialisation-balance loss (arXiv:2507.00029), the mean over projections.

    balance * sum_e p_e f_e - entropy * H, with p_e the mean softmax share of expert e over the
    tokens, f_e the share of tokens that have it among their `top_k`, and H the mean entropy of
    the tokens' shares. As printed `entropy` is positive, which rewards undecided gates; the
    paper's text wants decided ones, which a negative value gives.

    Args:
        products: of each projection, float32 [1, num_tokens, num_experts].
        rule: the one that the router will be served by.
    """
    logits = torch.cat(list(products)) / rule.temperature  # [projections, tokens, experts]
    log_shares = logits.log_softmax(-1)
    shares = log_shares.exp()
    chosen = logits.topk(min(rule.top_k, logits.shape[-1]), dim=-1).indices
    is_chosen = torch.zeros_like(logits).scatter(-1, chosen, 1.0)
    balanced = (shares.mean(1) * is_chosen.mean(1)).sum(-1).mean()
    mean_entropy = -(shares * log_shares).sum(-1).mean()
    return balance * balanced - entropy * mean_entropy
