"""Which methods of routing there are, as data: a rule for each, and what a user may change in it.

Owns: the table `METHODS`, and how the fields of a configuration become a `RoutingRule` and back.
Does not know: how a configuration is read (`adapters/router_config.py`), nor how a rule is
computed (`kernels/gating.py`).

What papers leave open is a field here, with the default that `docs/routing.md` gives reasons for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from motet.core.routing import RoutingRule, Score, Share

THRESHOLD = "threshold"


@dataclass(frozen=True, slots=True)
class Choice:
    """A field of the configuration that decides what the weights of the chosen are.

    Attributes:
        field: its name.
        shares: what each of its values means; the first is the default.
    """

    field: str
    shares: Mapping[bool | str, Share]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of routing.

    Attributes:
        rule: with the published `top_k`, and the defaults of all else.
        has_tensors: whether the router has gates of its own, in `router.safetensors`. Without,
            they follow from the experts, or there are none.
        choice: the field that decides the share, if there is one.
        has_threshold: whether the configuration may give a threshold.
    """

    rule: RoutingRule
    has_tensors: bool = True
    choice: Choice | None = None
    has_threshold: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the configuration that only some methods have."""
        chosen = (self.choice.field,) if self.choice else ()
        return (*chosen, THRESHOLD) if self.has_threshold else chosen


_RENORMALISE = Choice("renormalise", {True: Share.OF_CHOSEN, False: Share.OF_ALL})
_GATE_VALUES = Choice(
    "gate_values",
    {"binary": Share.EQUAL, "softmax": Share.OF_CHOSEN, "softmax_of_all": Share.OF_ALL},
)

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        # arXiv:2405.13053: a gate for each projection.
        "meteora": Method(RoutingRule(top_k=2)),
        # arXiv:2507.00029: soft over all in training, the best three at inference.
        "lora_mixer": Method(RoutingRule(top_k=3), choice=_RENORMALISE),
        # arXiv:2402.08562: more experts in higher layers.
        "mola": Method(RoutingRule(top_k=2)),
        # arXiv:2404.15159: one choice for an MLP block.
        "mixlora": Method(RoutingRule(top_k=2, per_block=True)),
        # arXiv:2405.11157: the experts' own directions are the gates.
        "arrow": Method(RoutingRule(top_k=3, score=Score.ABSOLUTE), has_tensors=False),
        # arXiv:2501.15103: a gate for each rank, with a bias that balances them.
        "smora": Method(
            RoutingRule(top_k=8, share=Share.EQUAL, by_rank=True, has_bias=True),
            choice=_GATE_VALUES,
        ),
        # arXiv:2506.21035: ranks that choose themselves.
        "mora": Method(
            RoutingRule(top_k=8, score=Score.SELF, share=Share.OF_ALL, by_rank=True),
            has_tensors=False,
            has_threshold=True,
        ),
    }
)


def rule_of(
    method: Method, top_k: int, temperature: float, special: Mapping[str, object]
) -> RoutingRule:
    """The method's rule with what a configuration says.

    Args:
        special: the values of `method.fields`, as far as they are given.

    Raises:
        ValueError: one of these has a value that it cannot have. The message names it.
    """
    rule = replace(method.rule, top_k=top_k, temperature=temperature)
    choice = method.choice
    if choice is not None and choice.field in special:
        rule = replace(rule, share=_share(choice, special[choice.field]))
    threshold = special.get(THRESHOLD)
    return rule if threshold is None else replace(rule, threshold=_threshold(threshold))


def fields_of(method: Method, rule: RoutingRule) -> dict[str, object]:
    """The fields of a configuration that give this rule: the inverse of `rule_of`."""
    fields: dict[str, object] = {"top_k": rule.top_k, "temperature": rule.temperature}
    if method.choice is not None:
        values = {share: value for value, share in method.choice.shares.items()}
        fields[method.choice.field] = values[rule.share]
    if rule.threshold is not None:
        fields[THRESHOLD] = rule.threshold
    return fields


def _share(choice: Choice, value: object) -> Share:
    for each, share in choice.shares.items():
        if type(value) is type(each) and value == each:
            return share
    expected = " or ".join(repr(each) for each in choice.shares)
    raise ValueError(f"{choice.field} is {value!r:.60}; expected {expected}")


def _threshold(value: object) -> float:
    # Scores under a threshold are parts of a Euclidean norm.
    if isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1:
        return float(value)
    raise ValueError(f"{THRESHOLD} is {value!r:.60}; expected a number from -1 to 1")
