"""MoLA, as its authors' fork of PEFT writes it, and as MoE-PEFT does.

Owns: these two layouts. Layers may have different numbers of experts, and of ranks.
Does not know: what is written of them.
"""

from collections.abc import Mapping
from pathlib import Path

from motet.adapters.importing.experts import check_experts, expert_adapters
from motet.adapters.importing.imported import (
    ImportedSet,
    ImportOptions,
    imported_rule,
    lora_part,
)
from motet.adapters.importing.names import SortedNames, sort_names
from motet.adapters.importing.source import TensorFiles, read_config
from motet.adapters.peft_config import PeftLoraConfig
from motet.adapters.peft_targets import MODULE_PATHS, module_path
from motet.adapters.routing_methods import METHODS
from motet.core.errors import AdapterError

_FACTOR = r"lora_(?P<factor>[AB])"
_PATH = r"(?P<layer>[0-9]{1,6})\.(?P<path>[a-z_]+\.[a-z_]+)"
_EXPERT = r"(?P<expert>[0-9]{1,4})"
# PEFT takes the adapter's name, "default", out of "lora_A.default_0".
_FORK = rf"base_model\.model\.model\.layers\.{_PATH}"
_MOE_PEFT = rf"mola\.layers\.{_PATH}"
_PATTERNS = (
    rf"{_FORK}\.router\.router\.weight",
    rf"{_FORK}\.{_FACTOR}(?:\.default)?_{_EXPERT}\.weight",
    rf"{_MOE_PEFT}\.moe_gate\.weight",
    rf"{_MOE_PEFT}\.experts\.{_EXPERT}\.{_FACTOR}\.weight",
)

_OWN_FIELDS = frozenset(
    {
        "lora_init",
        "name",
        "num_experts",
        "router_aux_loss_coef",
        "router_init_range",
        "router_loss",
        "routing_strategy",
        "task_name",
        "top_k",
    }
)


def read_mola(source: Path, files: TensorFiles, options: ImportOptions) -> ImportedSet:
    """Read a MoLA checkpoint. Raises AdapterError if it is not one, or asks for more."""
    config = read_config(source)
    if config.get("peft_type") not in ("LORA", "MOLA"):
        raise AdapterError(
            f"peft_type is {config.get('peft_type')!r:.60}; expected 'MOLA', or 'LORA' with a rank "
            "for each layer."
        )
    names = sort_names(files.names, _PATTERNS)
    lora = _lora(config, names)
    num_experts = check_experts(config, names, files)
    gates = {}
    for (layer, module), name in names.gates.items():
        assert module is not None  # the patterns have a path
        gates[f"layers.{layer}.{MODULE_PATHS[module]}.gate.weight"] = files.read(name)
    return ImportedSet(
        method="mola",
        rule=imported_rule(METHODS["mola"], options, config.get("top_k")),
        base_name=lora.base_model_name_or_path or "not said",
        experts=expert_adapters(files, names, num_experts, lora),
        shared=(),
        gates=gates,
        provenance={"converted_from": "MoLA", "source": source.name},
    )


def _lora(config: Mapping[str, object], names: SortedNames) -> PeftLoraConfig:
    """LoRA's fields. A list of ranks, one for each layer, becomes a rank and its exceptions."""
    ranks = config.get("r")
    if not isinstance(ranks, list):
        return lora_part(config, _OWN_FIELDS)
    num_layers = 1 + max(layer for layer, _ in names.gates)
    if len(ranks) < num_layers or not all(type(rank) is int for rank in ranks):
        raise AdapterError(
            f"r is {ranks!r:.60}; expected a rank for each of {num_layers} layers, or one for all."
        )
    common = max(ranks, key=ranks.count)
    pattern = {
        module_path(layer, module): ranks[layer]
        for layer, module in names.gates
        if module is not None and ranks[layer] != common
    }
    return lora_part({**config, "r": common, "rank_pattern": pattern}, _OWN_FIELDS)
