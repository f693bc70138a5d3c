"""What the layouts with experts as single tensors have in common.

Owns: that such a checkpoint has the experts that its gates choose among.
Does not know: names of tensors.
"""

from collections.abc import Mapping
from functools import partial

from motet.adapters.importing.imported import ImportedAdapter
from motet.adapters.importing.names import Key, SortedNames, read_factors
from motet.adapters.importing.source import TensorFiles
from motet.adapters.peft_config import PeftLoraConfig
from motet.adapters.peft_targets import module_path
from motet.adapters.roots import quote
from motet.core.errors import AdapterError


def check_experts(config: Mapping[str, object], names: SortedNames, files: TensorFiles) -> int:
    """Require gates and experts to belong together.

    Args:
        config: as parsed; where it has `num_experts`, every gate has that many rows.
        names: of the tensors.
        files: the tensors.

    Returns:
        The number of experts: the most that any gate has.

    Raises:
        AdapterError: an expert is missing, or has no gate.
    """
    num_gates = {place: files.shape(name)[0] for place, name in names.gates.items()}
    said = config.get("num_experts")
    for place, count in num_gates.items():
        if said is not None and count != said:
            raise AdapterError(
                f"{quote(names.gates[place])} has {count} gates, but num_experts is {said!r:.60}."
            )
    touched: dict[Key, set[int]] = {}
    for expert, factors in names.experts.items():
        for key in factors:
            touched.setdefault(key, set()).add(expert)
    gated = set()
    for (layer, module), experts in touched.items():
        place = (layer, module) if (layer, module) in num_gates else (layer, None)
        count = num_gates.get(place, 0)
        if experts != set(range(count)):
            raise AdapterError(
                f"{module_path(layer, module)} has {count} gates, and factors of "
                f"{len(experts)} experts, the last of them number {max(experts)}. The file is "
                "incomplete."
            )
        gated.add(place)
    for place in num_gates.keys() - gated:
        raise AdapterError(f"{quote(names.gates[place])} has no experts. The file is incomplete.")
    return max(num_gates.values())


def expert_adapters(
    files: TensorFiles, names: SortedNames, num_experts: int, config: PeftLoraConfig
) -> list[ImportedAdapter]:
    """The experts, named by their number."""
    return [
        ImportedAdapter(f"expert-{e}", config, partial(read_factors, files, names.experts[e]))
        for e in range(num_experts)
    ]
