"""`adapter_config.json` of PEFT's LoRA: what each field means here, or why it is refused.

Owns: every field that PEFT's `LoraConfig` writes, and the rank and scaling of each module.
Does not know: tensors.

Every field is in exactly one of three places: `PeftLoraConfig` (used), `REFUSED` (it changes
numbers in a way that is not computed here), `HARMLESS` (it changes no number after training). A
field in none of them is refused by name, unless its value says "off".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from motet.adapters.patterns import first_matches
from motet.adapters.roots import quote
from motet.adapters.unconverted import refuse_unconverted
from motet.core.errors import AdapterError

Rank = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)]

HARMLESS: Mapping[str, str] = {
    "auto_mapping": "names the class of the base model",
    "corda_config": "initialisation; it is read only with init_lora_weights='corda'",
    "ensure_weight_tying": "concerns embeddings and modules_to_save, which are refused",
    "eva_config": "initialisation",
    "inference_mode": "freezes weights for training",
    "layers_pattern": "decided which layers were trained; the tensors show which",
    "loftq_config": "initialisation; it is read only with init_lora_weights='loftq'",
    "lora_dropout": "training only",
    "lora_ga_config": "initialisation; it is read only with init_lora_weights='lora_ga'",
    "megatron_config": "how training was spread over devices",
    "megatron_core": "how training was spread over devices",
    "monteclora_config": "noise on A during training; plain LoRA afterwards",
    "peft_version": "who wrote the file",
    "qalora_group_size": "read only with use_qalora",
    "revision": "version of the base model on a hub",
    "runtime_config": "PEFT itself ignores it in a file",
    "task_type": "chooses PEFT's wrapper class; heads are in modules_to_save, which is refused",
    "velora_config": "compresses activations of the backward pass; plain LoRA afterwards",
}

_OFF: tuple[object, ...] = (None, False)
_OFF_OR_EMPTY: tuple[object, ...] = (None, False, [], {}, "")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a field is refused, unless it has one of the values that turn it off."""

    off: tuple[object, ...]
    reason: str


REFUSED: Mapping[str, _Refusal] = {
    "use_dora": _Refusal(
        _OFF, "DoRA rescales the base weights. Merge it into the base, or train plain LoRA."
    ),
    "bias": _Refusal((None, "none"), "Trained biases are not supported. Train with bias='none'."),
    "lora_bias": _Refusal(_OFF, "A bias on lora_B is not supported. Train with lora_bias=False."),
    "modules_to_save": _Refusal(
        _OFF_OR_EMPTY,
        "Whole trained modules are not supported. Train LoRA on the attention and MLP "
        "projections alone.",
    ),
    "trainable_token_indices": _Refusal(
        _OFF_OR_EMPTY, "Trained embedding rows are not supported. Train without added tokens."
    ),
    "layer_replication": _Refusal(
        _OFF_OR_EMPTY, "It stacks the base's layers anew, which makes another base model."
    ),
    "target_parameters": _Refusal(
        _OFF_OR_EMPTY, "LoRA on parameters of mixture-of-experts layers is not supported."
    ),
    "alora_invocation_tokens": _Refusal(
        _OFF_OR_EMPTY, "Activated LoRA, which starts in mid-sequence, is not supported."
    ),
    "use_qalora": _Refusal(_OFF, "QALoRA pools the inputs of lora_A, which is not supported."),
    "use_bdlora": _Refusal(
        _OFF, "Block-diagonal LoRA is not supported. Save its factors as full matrices."
    ),
    "arrow_config": _Refusal(
        _OFF, "It routes between adapters and has no weights. Load those adapters one by one."
    ),
    "kasa_config": _Refusal(
        _OFF, "KaSA truncates the base weights and scales the ranks, which is not supported."
    ),
    "fan_in_fan_out": _Refusal(
        _OFF, "It is for bases of transposed layers (GPT-2), and this base has none."
    ),
}

# How A and B began changes nothing afterwards, as long as the base weights stayed as they were.
_INITS_ON_THE_BASE = ("gaussian", "eva", "orthogonal", "mica")
_INITS_THAT_MOVE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


class PeftLoraConfig(BaseModel):
    """The fields that decide numbers, with PEFT's own defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    base_model_name_or_path: str | None = None
    r: Rank = 8
    lora_alpha: Alpha = 8
    use_rslora: bool | None = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None

    def scale_rules(self, paths: Sequence[str]) -> dict[str, tuple[int, float]]:
        """The rank and the scaling of each module path, after both tables of patterns.

        scaling = alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA (arXiv:2312.03732).
        """
        ranks = first_matches(self.rank_pattern or {}, paths, "rank_pattern")
        alphas = first_matches(self.alpha_pattern or {}, paths, "alpha_pattern")
        rules = {}
        for path in paths:
            rank = ranks.get(path, self.r)
            alpha = alphas.get(path, self.lora_alpha)
            rules[path] = rank, alpha / (math.sqrt(rank) if self.use_rslora else rank)
        return rules


def parse_lora_config(raw: Mapping[str, object]) -> PeftLoraConfig:
    """Check `adapter_config.json` as parsed from JSON.

    Raises:
        AdapterError: "unsupported_adapter" for what is valid but not computed here, else
            "invalid_adapter". The message names the field.
    """
    refuse_unconverted(raw)
    if raw.get("peft_type") != "LORA":
        raise AdapterError(
            f"peft_type is {_show(raw.get('peft_type'))}; expected 'LORA'. Other methods can be "
            "converted with PEFT where it offers it (peft.convert_to_lora), and saved as LoRA.",
            code="unsupported_adapter",
        )
    known = PeftLoraConfig.model_fields.keys()
    for name, value in raw.items():
        if name in REFUSED:
            _check_off(name, value)
        elif name == "init_lora_weights":
            _check_init(value)
        elif name not in known and name not in HARMLESS and name != "peft_type":
            _check_unknown(name, value)
    try:
        config = PeftLoraConfig.model_validate({k: v for k, v in raw.items() if k in known})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AdapterError(
            f"adapter_config.json: {quote(where)} is {_show(first['input'])}. {first['msg']}."
        ) from None
    _check_targets(config.target_modules)
    return config


def _check_off(name: str, value: object) -> None:
    if not _is_one_of(value, REFUSED[name].off):
        raise AdapterError(
            f"{name} is {_show(value)}. {REFUSED[name].reason}", code="unsupported_adapter"
        )


def _check_unknown(name: str, value: object) -> None:
    if not _is_one_of(value, _OFF_OR_EMPTY):
        raise AdapterError(
            f"The field {quote(name)} of adapter_config.json is not known here, so what it does "
            "to the numbers is not known either. If it is of no effect, remove it.",
            code="unsupported_adapter",
        )


def _check_init(value: object) -> None:
    if value is None or isinstance(value, bool):
        return
    kind = value.lower() if isinstance(value, str) else ""
    if kind in _INITS_ON_THE_BASE:
        return
    if kind.startswith(_INITS_THAT_MOVE_THE_BASE):
        raise AdapterError(
            f"init_lora_weights is {_show(value)}: the adapter belongs to base weights that this "
            "initialisation changed. Convert it: save_pretrained(directory, "
            "path_initial_model_for_weight_conversion=initial_adapter) writes a plain LoRA for "
            "the original base (not for loftq, whose base is quantised).",
            code="unsupported_adapter",
        )
    raise AdapterError(
        f"init_lora_weights is {_show(value)}, which is not known here. Expected true, false or "
        f"one of {', '.join(_INITS_ON_THE_BASE)}.",
        code="unsupported_adapter",
    )


def _check_targets(targets: list[str] | str | None) -> None:
    if not isinstance(targets, list):
        return
    for target in targets:
        if target.rpartition(".")[2] in ("embed_tokens", "lm_head"):
            raise AdapterError(
                f"target_modules names {quote(target)}: LoRA on embeddings and on the output "
                "layer is not supported. Train on the attention and MLP projections alone.",
                code="unsupported_adapter",
            )


def _is_one_of(value: object, choices: tuple[object, ...]) -> bool:
    # Python holds 0 equal to False; a number is never "off" here.
    return any(value == choice and type(value) is type(choice) for choice in choices)


def _show(value: object) -> str:
    return quote(value, 60) if isinstance(value, str) else f"{value!r:.60}"
