"""From the scores of gates to weights, in torch: any device, no wait for it.

Owns: the meaning of a routing rule; the fast kernels are tested against it.
Does not know: where gates lie, nor what an expert is.
"""

import torch
from torch import Tensor

from motet.kernels.types import ABSOLUTE, EQUAL, OF_ALL, SELF, RoutedTokens, Rule


def gate_weights(products: Tensor, num_gates: Tensor, routed: RoutedTokens) -> Tensor:
    """Weights of the gates of each token, 0 for those that are not chosen.

    With l the scores and C the chosen: w_i = exp(l_i / T) / sum_{j in D} exp(l_j / T) for i in C,
    where D is C or all gates; or w_i = 1. See `core/routing.RoutingRule`.

    Args:
        products: [num_tokens, most gates], float32 or float64: of each gate with the input, the
            bias added; with the score `SELF` the expert's A x. What lies past a token's gates is
            not read.
        num_gates: int32 [num_tokens]. Gates of each token's router here; 0 gives no weights.
        routed: the tokens' sets.

    Returns:
        [num_tokens, most gates], in the dtype of `products`.
    """
    rules = routed.rules[routed.sets.long()].long()
    column = torch.arange(products.shape[1], device=products.device)
    is_gate = column < num_gates[:, None]
    scores = _scores(products.where(is_gate, 0.0), rules[:, Rule.SCORE, None])
    lowest = torch.finfo(products.dtype).min
    order = scores.where(is_gate, lowest).argsort(dim=1, descending=True, stable=True)
    place = order.argsort(dim=1)
    threshold = routed.thresholds[routed.sets.long(), None]
    is_chosen = is_gate & (place < rules[:, Rule.TOP_K, None]) & (scores >= threshold)
    share = rules[:, Rule.SHARE, None]
    in_sum = torch.where(share == OF_ALL, is_gate, is_chosen)
    exponents = scores * routed.inverse_temperatures[routed.sets.long(), None]
    # A row without any gate would be the softmax of nothing, which is NaN; it is dropped below.
    softmax = exponents.where(in_sum, -torch.inf).softmax(dim=1)
    weights = torch.where(share == EQUAL, torch.ones_like(softmax), softmax)
    return weights.where(is_chosen, 0.0)


def _scores(products: Tensor, score: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(products, dim=1, keepdim=True)
    normed = torch.where(norm > 0, products / norm, torch.zeros_like(products))
    scores = torch.where(score == ABSOLUTE, products.abs(), products)
    return torch.where(score == SELF, normed, scores)
