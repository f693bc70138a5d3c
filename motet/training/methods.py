"""What each method of routing is for a trainer: rule, projections with gates, losses.

Owns: this table.
Does not know: tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from motet.core.routing import RoutingRule, Score, Share
from motet.core.shape import MODULES, QKV, Module


class Method(StrEnum):
    METEORA = "meteora"  # arXiv:2405.13053
    LORA_MIXER = "lora_mixer"  # arXiv:2507.00029
    ARROW = "arrow"  # arXiv:2405.11157


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """One method.

    Attributes:
        top_k: experts of a token in a projection, if nobody says otherwise.
        score: see `RoutingRule`.
        modules: the projections that are routed; the others stay the base's.
        is_trained: whether its gates are learnt.
        is_soft_in_training: all experts are used while training, weighted, and `top_k` only after.
        has_labels: the gates are told each token's task.
    """

    top_k: int
    modules: tuple[Module, ...]
    score: Score = Score.LINEAR
    is_trained: bool = True
    is_soft_in_training: bool = False
    has_labels: bool = False


METHODS = {
    Method.METEORA: MethodFacts(top_k=2, modules=MODULES, has_labels=True),
    Method.LORA_MIXER: MethodFacts(top_k=3, modules=(*QKV, Module.O), is_soft_in_training=True),
    Method.ARROW: MethodFacts(top_k=3, modules=MODULES, score=Score.ABSOLUTE, is_trained=False),
}


def serving_rule(method: Method, top_k: int, temperature: float) -> RoutingRule:
    """The rule that the router is served by, and evaluated with."""
    facts = METHODS[method]
    return RoutingRule(
        top_k=top_k, score=facts.score, share=Share.OF_CHOSEN, temperature=temperature
    )


def training_rule(method: Method, served: RoutingRule, num_experts: int) -> RoutingRule:
    """The rule of the forward pass while gates are learnt."""
    return replace(served, top_k=num_experts) if METHODS[method].is_soft_in_training else served
