"""What a layout becomes, before it is written.

Owns: `ImportedSet` and what it is made of.
Does not know: layouts, nor files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from motet.adapters.importing.names import Factors
from motet.adapters.peft_config import PeftLoraConfig, parse_lora_config
from motet.adapters.routing_methods import Method, rule_of
from motet.core.errors import AdapterError
from motet.core.routing import RoutingRule


@dataclass(frozen=True)
class ImportOptions:
    """What a user says besides where the checkpoint is.

    Attributes:
        adapters: directory of the task adapters (MeteoRA).
        order: their names, in the order of the gates.
        top_k, temperature: None is what the checkpoint says, or else what was published.
    """

    adapters: Path | None = None
    order: Sequence[str] | None = None
    top_k: int | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class ImportedAdapter:
    """One adapter of a set.

    Attributes:
        config: gives the scaling; which modules it is for is seen from the factors.
        read: reads the factors, when they are needed: all experts at once may be too many.
    """

    name: str
    config: PeftLoraConfig
    read: Callable[[], Factors]


@dataclass(frozen=True)
class ImportedSet:
    """A router and its adapters.

    Attributes:
        gates: by their names in `router.safetensors`, as stored.
        provenance: for people.
    """

    method: str
    rule: RoutingRule
    base_name: str
    experts: Sequence[ImportedAdapter]
    shared: Sequence[ImportedAdapter]
    gates: Mapping[str, Tensor]
    provenance: Mapping[str, object]


def imported_rule(
    method: Method, options: ImportOptions, said: object | None = None
) -> RoutingRule:
    """The rule of an imported router: as its user says, else its file, else what was published.

    Args:
        said: the file's top_k, if it has one.

    Raises:
        AdapterError: the file's top_k is no number.
    """
    top_k = said if options.top_k is None else options.top_k
    if top_k is None:
        top_k = method.rule.top_k
    if not isinstance(top_k, int) or isinstance(top_k, bool):
        raise AdapterError(f"top_k is {top_k!r:.60}; expected a number of experts.")
    temperature = method.rule.temperature if options.temperature is None else options.temperature
    return rule_of(method, top_k, temperature, {})


def lora_part(config: Mapping[str, object], without: frozenset[str]) -> PeftLoraConfig:
    """The fields of a foreign configuration that are LoRA's, checked as LoRA's are.

    Args:
        config: as parsed.
        without: the fields that are the layout's own.

    Raises:
        AdapterError: a field is not known, or asks for what is not computed (DoRA, biases).
    """
    lora = {name: value for name, value in config.items() if name not in without}
    return parse_lora_config({**lora, "peft_type": "LORA", "target_modules": None})
