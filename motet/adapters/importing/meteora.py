"""The official MeteoRA checkpoint: a whole model, with gates and stacked factors in it.

Owns: this layout. A and B of all tasks are stacked, in one tensor each; a file says neither which
tasks these are, nor their order, ranks and scalings. Those are the task adapters' configurations;
their weights are not read, since the released training script went on to train the factors.
Does not know: what is written of it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

from motet.adapters.importing.imported import (
    ImportedAdapter,
    ImportedSet,
    ImportOptions,
    imported_rule,
)
from motet.adapters.importing.names import Factors, Key, SortedNames, sort_names
from motet.adapters.importing.source import TensorFiles, read_config
from motet.adapters.peft_config import PeftLoraConfig, parse_lora_config
from motet.adapters.peft_targets import MODULE_PATHS, module_path
from motet.adapters.roots import adapter_name_is_valid, quote
from motet.adapters.routing_methods import METHODS
from motet.core.errors import AdapterError

# The tasks of the released checkpoints, in the order of their gates.
RELEASED_TASKS = (
    "abstract_narrative_understanding",
    "alpaca",
    "cnn_dailymail",
    "contextual_parametric_knowledge_conflicts",
    "cs_algorithms",
    "disfl_qa",
    "elementary_math_qa",
    "epistemic_reasoning",
    "formal_fallacies_syllogisms_negation",
    "goal_step_wikihow",
    "gsm8k",
    "language_identification",
    "linguistics_puzzles",
    "logical_deduction",
    "news_commentary_de",
    "news_commentary_es",
    "news_commentary_it",
    "object_counting",
    "paragraph_segmentation",
    "play_dialog_same_or_different",
    "question_selection",
    "reasoning_about_colored_objects",
    "strategyqa",
    "topical_chat",
    "tracking_shuffled_objects",
    "unit_conversion",
    "vitaminc_fact_verification",
    "winowhy",
)

_LAYER = r"base_model\.model\.model\.layers\.(?P<layer>[0-9]{1,6})\.(?P<path>[a-z_]+\.[a-z_]+)"
_PATTERNS = (rf"{_LAYER}\.moe_gate\.weight", rf"{_LAYER}\.lora_(?P<factor>[AB])\.weight")
# The base's own weights, which training left alone.
_BASE = r"(?!.*(lora_|moe_gate)).*"


def read_meteora(source: Path, files: TensorFiles, options: ImportOptions) -> ImportedSet:
    """Read a MeteoRA checkpoint. Raises AdapterError if it is not one, or does not fit together."""
    configs = _task_configs(options)
    names = sort_names(files.names, _PATTERNS, ignored=_BASE)
    if set(names.plain) != set(names.gates):
        raise AdapterError("Some projections have factors or gates alone. The file is incomplete.")
    gates = {}
    for (layer, module), name in names.gates.items():
        assert module is not None  # the pattern has a path
        if files.shape(name)[0] != len(configs):
            raise AdapterError(
                f"{quote(name)} has {files.shape(name)[0]} gates, but {len(configs)} adapters are "
                "given. Name all of them, in the order of training, with --order."
            )
        gates[f"layers.{layer}.{MODULE_PATHS[module]}.gate.weight"] = files.read(name)
    parts = {key: _parts(files, names, key, configs) for key in names.plain}
    experts = [
        ImportedAdapter(task, config, partial(_read_part, files, names, parts, index))
        for index, (task, config) in enumerate(configs.items())
    ]
    return ImportedSet(
        method="meteora",
        rule=imported_rule(METHODS["meteora"], options),
        base_name=next(iter(configs.values())).base_model_name_or_path or "not said",
        experts=experts,
        shared=(),
        gates=gates,
        provenance={"converted_from": "MeteoRA", "source": source.name},
    )


def _task_configs(options: ImportOptions) -> Mapping[str, PeftLoraConfig]:
    """The configurations of the task adapters, in the order of the gates."""
    if options.adapters is None:
        raise AdapterError(
            "A MeteoRA checkpoint says nothing of its adapters' names, order and scalings. Give "
            "the directory of the task adapters with --adapters."
        )
    if not options.adapters.is_dir():
        raise AdapterError(f"--adapters {quote(str(options.adapters))} is not a directory.")
    order = options.order or _released_order(options.adapters)
    if len(set(order)) != len(order):
        raise AdapterError("--order names an adapter twice.")
    configs = {}
    for task in order:
        if not adapter_name_is_valid(task):
            raise AdapterError(f"{quote(task)} cannot be the name of an adapter.")
        try:
            configs[task] = parse_lora_config(read_config(options.adapters / task))
        except AdapterError as error:
            raise AdapterError(
                f"The task adapter {quote(task)}: {error.message}", code=error.code
            ) from None
    return configs


def _released_order(directory: Path) -> Sequence[str]:
    found = {path.name for path in directory.iterdir()}
    if found >= set(RELEASED_TASKS):
        return RELEASED_TASKS
    raise AdapterError(
        f"{quote(str(directory))} does not hold the {len(RELEASED_TASKS)} tasks of the released "
        "checkpoints. Give the names of its adapters in the order of training, with --order a,b,c."
    )


def _parts(
    files: TensorFiles, names: SortedNames, key: Key, configs: Mapping[str, PeftLoraConfig]
) -> list[slice]:
    """Which rows of the stacked A, and columns of B, are each task's."""
    path = module_path(*key)
    ranks = [config.scale_rules([path])[path][0] for config in configs.values()]
    a, b = (files.shape(names.plain[key][factor]) for factor in "AB")
    if a[0] != sum(ranks) or b[1] != sum(ranks):
        raise AdapterError(
            f"The stacked factors of {path} have shapes {list(a)} and {list(b)}, but the adapters' "
            f"ranks there, {', '.join(map(str, ranks))}, add up to {sum(ranks)}."
        )
    return [slice(start, end) for start, end in pairwise(accumulate(ranks, initial=0))]


def _read_part(
    files: TensorFiles, names: SortedNames, parts: Mapping[Key, Sequence[slice]], index: int
) -> Factors:
    """One task's factors."""
    factors = {}
    for key, pair in names.plain.items():
        part = parts[key][index]
        a, b = files.read(pair["A"], rows=part), files.read(pair["B"], columns=part)
        factors[key] = a, b
    return factors
