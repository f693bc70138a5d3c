"""Which models a load test asks, how often, and what it asks them.

Owns: the weighted mix of models and their prompts.
Does not know: how requests are sent (`locustfile.py`).
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EXAMPLES_DIR = Path(__file__).resolve().parents[1] / "examples" / "adapters"

# For models that come without example prompts, when no other model has any either.
_GENERAL_PROMPTS = (
    "Why is the sky blue?",
    "Write two sentences about the sea in winter.",
    "Name three uses of a paper clip.",
    "Explain to a child what a bridge is for.",
)


@dataclass(frozen=True)
class Mix:
    """Models with their weights and prompts. A weight is a share of the requests, not normalised.

    Raises:
        ValueError: no models, or a weight that is not positive.
    """

    weights: Mapping[str, float]
    prompts: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("The mix is empty: expected at least one model to ask.")
        for name, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"The weight of {name} is {weight}: expected a positive number.")

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """A (model, prompt) pair: the model by its weight, the prompt evenly among its own."""
        [name] = rng.choices(list(self.weights), weights=list(self.weights.values()))
        return name, rng.choice(self.prompts[name])


def make_mix(
    served: Sequence[str], weights: Mapping[str, float], examples_dir: Path = EXAMPLES_DIR
) -> Mix:
    """Give each model that is to be asked its weight and its prompts.

    A model without example prompts of its own (such as the base) is asked everyone's.

    Args:
        served: names of the models that the server has.
        weights: by name; empty is every served model, evenly.

    Raises:
        ValueError: a weight for a model that is not served, or what `Mix` refuses.
    """
    if unknown := sorted(set(weights) - set(served)):
        raise ValueError(
            f"The server has no model {', '.join(unknown)}; it has {', '.join(sorted(served))}."
        )
    examples = load_prompts(examples_dir)
    everyones = [prompt for prompts in examples.values() for prompt in prompts]
    chosen = dict(weights) or dict.fromkeys(served, 1.0)
    return Mix(
        weights=chosen,
        prompts={name: examples.get(name) or everyones or _GENERAL_PROMPTS for name in chosen},
    )


def load_prompts(examples_dir: Path) -> dict[str, list[str]]:
    """The prompts of each example adapter, from the `prompts.json` beside them."""
    path = examples_dir / "prompts.json"
    if not path.exists():
        return {}
    examples = json.loads(path.read_text())
    return {name: [each["prompt"] for each in pairs] for name, pairs in examples.items()}


def parse_weights(text: str) -> dict[str, float]:
    """Read "name=weight,name=weight". Raises ValueError with what was expected."""
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, weight = part.rpartition("=")
        try:
            if not equals or not name or name in weights:
                raise ValueError
            weights[name] = float(weight)
        except ValueError:
            raise ValueError(
                f"Cannot read {part!r} in the mix {text!r}: expected each model once, as "
                "name=weight, separated by commas, such as iso-dates=2,text-to-sql=1."
            ) from None
    return weights
