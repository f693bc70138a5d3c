"""MixLoRA, as MoE-PEFT and the `mixlora` package write it, and as older versions of them did.

Owns: this layout. Its attention factors, which no router chooses, become a shared adapter.
Does not know: what is written of it.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from motet.adapters.importing.experts import check_experts, expert_adapters
from motet.adapters.importing.imported import (
    ImportedAdapter,
    ImportedSet,
    ImportOptions,
    imported_rule,
    lora_part,
)
from motet.adapters.importing.names import read_factors, sort_names
from motet.adapters.importing.source import TensorFiles, read_config
from motet.adapters.routing_methods import METHODS
from motet.core.errors import AdapterError

_STRATEGIES = ("mixlora", "mixtral")  # of old and of new files; the rule is the same
_ACTIVATIONS = (None, "silu", "swish")

_FACTOR = r"\.lora_(?P<factor>[AB])\.weight"
_LAYER = r"mixlora\.layers\.(?P<layer>[0-9]{1,6})"
_EXPERT = r"experts\.(?P<expert>[0-9]{1,4})"
_PATTERNS = (
    rf"{_LAYER}\.(?P<path>self_attn\.[a-z_]+){_FACTOR}",
    rf"{_LAYER}\.mlp\.moe_gate\.weight",
    rf"{_LAYER}\.(?P<path>mlp\.[a-z_]+)\.{_EXPERT}{_FACTOR}",
    rf"{_LAYER}\.gate\.weight",
    rf"{_LAYER}\.{_EXPERT}\.(?P<projection>w[123]_proj|(?:gate|up|down)_proj){_FACTOR}",
)

_OWN_FIELDS = frozenset(
    {
        "act_fn",
        "expert_lora",
        "jitter_noise",
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


def read_mixlora(source: Path, files: TensorFiles, options: ImportOptions) -> ImportedSet:
    """Read a MixLoRA checkpoint. Raises AdapterError if it is not one, or asks for more."""
    config = read_config(source)
    _check(config)
    outer = lora_part(config, _OWN_FIELDS)
    inner = lora_part({**config, **_expert_fields(config)}, _OWN_FIELDS)
    names = sort_names(files.names, _PATTERNS)
    num_experts = check_experts(config, names, files)
    shared = [ImportedAdapter("attention", outer, partial(read_factors, files, names.plain))]
    return ImportedSet(
        method="mixlora",
        rule=imported_rule(METHODS["mixlora"], options, config.get("top_k")),
        base_name=outer.base_model_name_or_path or "not said",
        experts=expert_adapters(files, names, num_experts, inner),
        shared=shared if names.plain else (),
        gates={
            f"layers.{layer}.mlp.gate.weight": files.read(name)
            for (layer, _), name in names.gates.items()
        },
        provenance={"converted_from": "MixLoRA", "source": source.name},
    )


def _check(config: Mapping[str, object]) -> None:
    if config.get("peft_type") != "MIXLORA":
        raise AdapterError(f"peft_type is {config.get('peft_type')!r:.60}; expected 'MIXLORA'.")
    strategy, activation = config.get("routing_strategy"), config.get("act_fn")
    if strategy not in _STRATEGIES:
        raise AdapterError(
            f"routing_strategy is {strategy!r:.60}; expected {' or '.join(_STRATEGIES)}. Choosing "
            "by a sum of probabilities, and limiting what an expert takes of a batch, are not "
            "supported.",
            code="unsupported_adapter",
        )
    if activation not in _ACTIVATIONS:
        raise AdapterError(
            f"act_fn is {activation!r:.60}: experts with another activation than the base's are "
            "not supported.",
            code="unsupported_adapter",
        )


def _expert_fields(config: Mapping[str, object]) -> Mapping[str, object]:
    """What `expert_lora` says of the experts alone; training follows it."""
    fields = config.get("expert_lora") or {}
    if not isinstance(fields, dict):
        raise AdapterError(f"expert_lora is {fields!r:.60}; expected an object.")
    return fields
