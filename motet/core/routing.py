"""How a router turns the scores of its gates into weights: plain data, the same for all methods.

Owns: `RoutingRule` and the words in it.
Does not know: which method has which rule (`adapters/router_config.py`), nor how it is computed
(`kernels/gating.py`).
"""

from dataclasses import dataclass
from enum import StrEnum


class Score(StrEnum):
    """What a gate's product with the input becomes before it is compared."""

    LINEAR = "linear"  # the product, and the gate's bias if it has one
    ABSOLUTE = "absolute"  # its magnitude: a prototype has no sign
    SELF = "self"  # no gate: an adapter's own A x, divided by its Euclidean norm over the ranks


class Share(StrEnum):
    """What the weights of the chosen ones are."""

    OF_CHOSEN = "of_chosen"  # softmax over the chosen ones: they sum to 1
    OF_ALL = "of_all"  # softmax over all, of which the others' part is lost
    EQUAL = "equal"  # 1 each


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """From scores to weights, of one token in one projection.

    The `top_k` gates of the highest score are chosen (of equal scores the first), less those with
    a score under `threshold`. A softmax is over score / `temperature`.

    Attributes:
        by_rank: a gate is for a rank of the only expert there is, not for an expert.
        has_bias: the gates have biases.
        per_block: one choice for a whole MLP block, made on its input; the experts' activations
            are weighted, not the outputs of single projections.
        threshold: None chooses by `top_k` alone.
    """

    top_k: int
    score: Score = Score.LINEAR
    share: Share = Share.OF_CHOSEN
    temperature: float = 1.0
    threshold: float | None = None
    by_rank: bool = False
    has_bias: bool = False
    per_block: bool = False
