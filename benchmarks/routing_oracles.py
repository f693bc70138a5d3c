"""The published equations of routed LoRA in plain PyTorch, as modules of a transformers model.

Owns: one module for each method, written from its paper (and from its code, where there is some)
without a look at how Motet computes, and the replacing of a model's layers by them.
Does not know: Motet.

In all of them A is [rank, in_features], B is [out_features, rank] with the scaling folded in, and
x is [batch, num_tokens, in_features]. Each routed module keeps the weights that it gave to experts
(or ranks) in `routing`, [num_tokens, num_experts], for a comparison of choices.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad


class LoraFactors(NamedTuple):
    """What one expert adds to a linear layer: B A x. A layer it does not touch has None."""

    a: Tensor
    b: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return linear(linear(x, self.a), self.b)


Experts = Sequence[LoraFactors | None]


class RoutedLinear(nn.Module):
    """y = W x + sum over e of w_e(x) B_e A_e x; how w comes about is a subclass's affair."""

    def __init__(self, base: nn.Module, experts: Experts) -> None:
        super().__init__()
        self.base = base
        self.experts = experts
        self.routing = torch.empty(0)

    def weigh(self, x: Tensor) -> Tensor:
        """[batch, num_tokens, num_experts]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weigh(x)
        self.routing = weights[0]
        y: Tensor = self.base(x)
        for index, expert in enumerate(self.experts):
            if expert is not None:
                y = y + weights[..., index, None] * expert(x)
        return y


class FixedLinear(nn.Module):
    """A plain adapter, or a composition: y = W x + sum over e of w_e B_e A_e x, with given w."""

    def __init__(self, base: nn.Module, experts: Experts, weights: Sequence[float]) -> None:
        super().__init__()
        self.base, self.experts, self.weights = base, experts, weights

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for weight, expert in zip(self.weights, self.experts, strict=True):
            if expert is not None:
                y = y + weight * expert(x)
        return y


class MeteoraLinear(RoutedLinear):
    """MeteoRA, arXiv 2405.13053, its accelerated path: top-k logits, softmax over those at T."""

    def __init__(
        self, base: nn.Module, experts: Experts, gate: Tensor, top_k: int, temperature: float
    ) -> None:
        super().__init__(base, experts)
        self.gate, self.top_k, self.temperature = gate, top_k, temperature

    def weigh(self, x: Tensor) -> Tensor:
        logits = linear(x, self.gate)
        best, chosen = torch.topk(logits, self.top_k, dim=-1)
        shares = torch.softmax(best / self.temperature, dim=-1)
        return torch.zeros_like(logits).scatter(-1, chosen, shares)


class SoftTopKLinear(RoutedLinear):
    """Softmax over all, then top-k, divided by its sum or not.

    MeteoRA's original loop and MoLA (arXiv 2402.08562) divide; what LoRA-Mixer (arXiv 2507.00029)
    does is an option of ours, and with top_k of all experts it is that paper's soft fusion.
    """

    def __init__(
        self, base: nn.Module, experts: Experts, gate: Tensor, top_k: int, renormalises: bool
    ) -> None:
        super().__init__(base, experts)
        self.gate, self.top_k, self.renormalises = gate, top_k, renormalises

    def weigh(self, x: Tensor) -> Tensor:
        probabilities = torch.softmax(linear(x, self.gate), dim=-1)
        best, chosen = torch.topk(probabilities, self.top_k, dim=-1)
        if self.renormalises:
            best = best / best.sum(dim=-1, keepdim=True)
        return torch.zeros_like(probabilities).scatter(-1, chosen, best)


class ArrowLinear(RoutedLinear):
    """Arrow, arXiv 2405.11157: |x . v_e| with v_e the top right-singular vector of B_e A_e.

    A full SVD, in float64, of the whole delta. An expert without delta here has score 0.
    """

    def __init__(self, base: nn.Module, experts: Experts, top_k: int, temperature: float) -> None:
        super().__init__(base, experts)
        in_features = next(each.a.shape[1] for each in experts if each is not None)
        self.prototypes = torch.stack(
            [torch.zeros(in_features) if e is None else _top_direction(e) for e in experts]
        )
        self.top_k, self.temperature = top_k, temperature

    def weigh(self, x: Tensor) -> Tensor:
        scores = linear(x, self.prototypes).abs()
        best, chosen = torch.topk(scores, self.top_k, dim=-1)
        shares = torch.softmax(best / self.temperature, dim=-1)
        return torch.zeros_like(scores).scatter(-1, chosen, shares)


def _top_direction(expert: LoraFactors) -> Tensor:
    _, _, right = torch.linalg.svd(expert.b.double() @ expert.a.double(), full_matrices=False)
    return torch.as_tensor(right[0], dtype=expert.a.dtype)


class RankGatedLinear(nn.Module):
    """y = W x + B (g(x) * A x) with a value of g for each rank of the only expert."""

    def __init__(self, base: nn.Module, expert: LoraFactors) -> None:
        super().__init__()
        self.base, self.expert = base, expert
        self.routing = torch.empty(0)

    def weigh(self, x: Tensor) -> Tensor:
        """[batch, num_tokens, rank]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        g = self.weigh(x)
        self.routing = g[0]
        y: Tensor = self.base(x) + linear(g * linear(x, self.expert.a), self.expert.b)
        return y


class SmoraLinear(RankGatedLinear):
    """SMoRA, arXiv 2501.15103: g = TopK(W_g x + b).

    Args:
        values: of the chosen ranks, where the paper is silent: 1 ("binary"), softmax over the
            chosen ones ("softmax"), or their part of the softmax over all ("softmax_of_all").
    """

    def __init__(
        self,
        base: nn.Module,
        expert: LoraFactors,
        gate: Tensor,
        bias: Tensor,
        top_k: int,
        values: str,
    ) -> None:
        super().__init__(base, expert)
        self.gate, self.bias, self.top_k, self.values = gate, bias, top_k, values

    def weigh(self, x: Tensor) -> Tensor:
        logits = linear(x, self.gate, self.bias)
        best, chosen = torch.topk(logits, self.top_k, dim=-1)
        match self.values:
            case "binary":
                g = torch.ones_like(best)
            case "softmax":
                g = torch.softmax(best, dim=-1)
            case _:
                g = torch.softmax(logits, dim=-1).gather(-1, chosen)
        return torch.zeros_like(logits).scatter(-1, chosen, g)


class MoraLinear(RankGatedLinear):
    """MoRA, arXiv 2506.21035: ranks that activate themselves, without a router.

    s_i = A_i x / sqrt(sum over j of (A_j x)^2), w = softmax(s / tau); ranks outside of the top k,
    or with s_i < delta, are dropped.
    """

    def __init__(
        self,
        base: nn.Module,
        expert: LoraFactors,
        top_k: int,
        tau: float,
        delta: float,
    ) -> None:
        super().__init__(base, expert)
        self.top_k, self.tau, self.delta = top_k, tau, delta

    def weigh(self, x: Tensor) -> Tensor:
        activations = linear(x, self.expert.a)
        s = activations / activations.square().sum(-1, keepdim=True).sqrt()
        w = torch.softmax(s / self.tau, dim=-1)
        kept = torch.zeros_like(s).scatter(-1, s.topk(self.top_k, dim=-1).indices, 1.0)
        return w * kept * (s >= self.delta)


class MixLoraMlp(nn.Module):
    """MixLoRA, arXiv 2404.15159: the whole FFN for each expert, then the weighted sum.

    Args:
        base: a transformers MLP with gate_proj, up_proj, down_proj and act_fn.
        experts: by expert, the factors of each of the three projections.
        gate: [num_experts, hidden_size], or None where the block has no router.
    """

    def __init__(
        self,
        base: Any,
        experts: Sequence[Mapping[str, LoraFactors]],
        gate: Tensor | None,
        top_k: int,
    ) -> None:
        super().__init__()
        self.base, self.experts, self.gate, self.top_k = base, experts, gate, top_k
        self.routing = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            self.routing = torch.zeros(x.shape[1], len(self.experts))
            plain: Tensor = self.base(x)
            return plain
        probabilities = torch.softmax(linear(x, self.gate), dim=-1)
        best, chosen = torch.topk(probabilities, self.top_k, dim=-1)
        best = best / best.sum(dim=-1, keepdim=True)
        weights = torch.zeros_like(probabilities).scatter(-1, chosen, best)
        self.routing = weights[0]
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            y = y + weights[..., index, None] * self._ffn(expert, x)
        return y

    def _ffn(self, expert: Mapping[str, LoraFactors], x: Tensor) -> Tensor:
        def project(name: str, row: Tensor) -> Tensor:
            y: Tensor = getattr(self.base, name)(row)
            return y + expert[name](row) if name in expert else y

        hidden = self.base.act_fn(project("gate_proj", x)) * project("up_proj", x)
        return project("down_proj", hidden)


class Replaced(NamedTuple):
    """What a model said with some of its modules replaced.

    Attributes:
        logits: [num_tokens, vocab_size].
        routing: [num_tokens, most experts or ranks]. The weights of all routed modules, summed.
    """

    logits: Tensor
    routing: Tensor


@torch.no_grad()
def run_replaced(
    model: nn.Module,
    replace: Callable[[str, nn.Module], nn.Module | None],
    token_ids: Sequence[int],
) -> Replaced:
    """Run one sequence through the model with modules replaced, and put them back.

    Args:
        model: a causal language model of transformers.
        replace: from a module's full name and itself to what stands for it, None to leave it.
    """
    originals = {}
    for name, module in list(model.named_modules()):
        replacement = replace(name, module)
        if replacement is not None:
            originals[name] = (module, replacement)
            model.set_submodule(name, replacement)
    try:
        logits = model(torch.tensor([list(token_ids)]), use_cache=False).logits[0]
    finally:
        for name, (module, _) in originals.items():
            model.set_submodule(name, module)
    routed = [each for _, each in originals.values() if not isinstance(each, FixedLinear)]
    return Replaced(logits, _sum_padded([each.routing for each in routed]))


def _sum_padded(routings: Sequence[Any]) -> Tensor:
    width = max((each.shape[-1] for each in routings), default=0)
    padded = [pad(each, (0, width - each.shape[-1])) for each in routings]
    return torch.stack(padded).sum(0) if padded else torch.empty(0)
