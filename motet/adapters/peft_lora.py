"""PEFT's LoRA checkpoints: tensor names to deltas, all of them or none.

Owns: the names under which PEFT saves LoRA tensors, and that tensors, configuration and the shape
of the base agree.
Does not know: files (`adapters/checkpoint.py`), nor devices.

The tensors decide what is adapted. The configuration gives each module's scaling and has to agree:
a tensor that `target_modules`, `exclude_modules` or `layers_to_transform` rule out is refused,
since PEFT would leave it unused and answer differently; so is a target module without any tensor,
since the file is then incomplete. A target module without tensors in some layers is accepted: PEFT
gives it a zero delta there, which is no delta.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from motet.adapters.checkpoint import read_checkpoint
from motet.adapters.delta import AdapterDeltas, Delta
from motet.adapters.digest import StoredPair, content_digest
from motet.adapters.peft_config import PeftLoraConfig, parse_lora_config
from motet.adapters.peft_targets import MODULE_PATHS, check_membership, module_path
from motet.adapters.roots import quote
from motet.adapters.widening import is_finite, largest_magnitude
from motet.core.errors import AdapterError
from motet.core.pacing import Pace, at_once
from motet.core.shape import ModelShape, Module

_MODULES = {path: module for module, path in MODULE_PATHS.items()}
_PREFIX = "base_model.model."
# Some programs leave PEFT's default adapter name, "default", in the key.
_KEY = re.compile(
    r"base_model\.model\.model\.layers\.(0|[1-9][0-9]{0,5})\.([a-z_]+\.[a-z_]+)"
    r"\.lora_([AB])(?:\.default)?\.weight"
)
# State of a training method that is plain LoRA at inference (see HARMLESS in peft_config).
_TRAINING_STATE = re.compile(r".*\.(lora_velora_embed|lora_monteclora_sampler\.[a-z_.]+)")
_REASONS = {
    "lora_magnitude_vector": "it is DoRA's (use_dora), which is not supported",
    "lora_embedding_": "LoRA on embeddings is not supported",
    "embed_tokens": "trained embeddings are not supported",
    "lm_head": "a trained output layer is not supported",
    "trainable_tokens": "trained embedding rows (trainable_token_indices) are not supported",
    "lora_diag": "it is KaSA's (kasa_config), which is not supported",
    "lora_E": "it is AdaLoRA's; only peft_type LORA is supported",
    "lora_ranknum": "it is AdaLoRA's; only peft_type LORA is supported",
    "bias": "trained biases (bias, lora_bias) are not supported",
    "modules_to_save": "whole trained modules (modules_to_save) are not supported",
    "experts": "LoRA on mixture-of-experts layers is not supported",
    "qkv_proj": "LoRA on fused projections is not supported",
    "gate_up_proj": "LoRA on fused projections is not supported",
}

_Names = dict[str, str]  # "A" and "B" to the tensor's name


@dataclass(frozen=True, slots=True, eq=False)
class LoraCheckpoint:
    """A checked LoRA as stored: its configuration, and its factors by layer and module."""

    config: PeftLoraConfig
    pairs: tuple[StoredPair, ...]


def load_adapter(
    path: Path,
    shape: ModelShape,
    *,
    root: Path | None = None,
    is_resolved: bool = False,
    pace: Pace = at_once,
) -> AdapterDeltas:
    """Read and check a PEFT LoRA directory.

    Args:
        path: directory of `adapter_config.json` and `adapter_model.safetensors`.
        shape: the base model that the adapter is for.
        root: where symbolic links in it may lead; None is the directory itself.
        is_resolved: as in `read_checkpoint`.
        pace: called between pieces of work.

    Raises:
        AdapterError: with a code of "adapter_not_found", "path_not_allowed",
            "unsupported_format", "corrupt_adapter", "unsupported_adapter", "wrong_base_model" or
            "invalid_adapter", and a message that names the field or tensor at fault.
    """
    checkpoint = read_lora(path, shape, root=root, is_resolved=is_resolved, pace=pace)
    return to_deltas(checkpoint, pace=pace)


def read_lora(
    path: Path,
    shape: ModelShape,
    *,
    root: Path | None = None,
    is_resolved: bool = False,
    pace: Pace = at_once,
) -> LoraCheckpoint:
    """`load_adapter` as far as the stored factors. Raises AdapterError as that does."""
    checkpoint = read_checkpoint(path, root, is_resolved=is_resolved, pace=pace)
    config = parse_lora_config(checkpoint.config)
    named = _sort_names(checkpoint.tensors, shape)
    check_membership(config, list(named), shape)
    paths = {key: module_path(*key) for key in named}
    rules = config.scale_rules(list(paths.values()))
    pairs = []
    for (layer, module), names in sorted(named.items()):
        rank, scaling = rules[paths[layer, module]]
        _check_factors(checkpoint.tensors, names, shape, module)
        _check_rank(checkpoint.tensors[names["A"]], names["A"], rank)
        a, b = checkpoint.tensors[names["A"]], checkpoint.tensors[names["B"]]
        pairs.append(StoredPair(layer, module, a, b, scaling))
        pace()
    return LoraCheckpoint(config, tuple(pairs))


def to_deltas(checkpoint: LoraCheckpoint, *, pace: Pace = at_once) -> AdapterDeltas:
    """Check that the factors can be widened to float32 with the scaling folded into B.

    Raises:
        AdapterError: the product with the scaling is too large for float32.
    """
    deltas = {}
    for pair in checkpoint.pairs:
        if abs(pair.scaling) > 1.0 and not _stays_finite(pair.b, pair.scaling):
            raise AdapterError(
                f"lora_alpha or alpha_pattern gives {module_path(pair.layer, pair.module)} a "
                f"scaling of {pair.scaling:g}, and B times that is too large for float32."
            )
        deltas[pair.layer, pair.module] = Delta(pair)
        pace()
    name = checkpoint.config.base_model_name_or_path
    return AdapterDeltas(content_digest(checkpoint.pairs, pace=pace), deltas, name)


def _stays_finite(factor: Tensor, scaling: float) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(largest_magnitude(factor) * np.float32(scaling)))


def _sort_names(
    tensors: Mapping[str, Tensor], shape: ModelShape
) -> dict[tuple[int, Module], _Names]:
    """The names of A and B for each touched projection."""
    named: dict[tuple[int, Module], _Names] = {}
    for name in sorted(tensors):
        match = _KEY.fullmatch(name)
        if match is None or match[2] not in _MODULES:
            if _TRAINING_STATE.fullmatch(name):
                continue
            raise _unknown_tensor(name)
        layer = int(match[1])
        if layer >= shape.num_layers:
            raise AdapterError(
                f"The tensor {quote(name)} is for layer {layer}, but the base model has "
                f"{shape.num_layers} layers (0 to {shape.num_layers - 1}). The adapter was "
                "probably trained for another base model.",
                code="wrong_base_model",
            )
        names = named.setdefault((layer, _MODULES[match[2]]), {})
        if match[3] in names:
            raise AdapterError(
                f"The tensors {quote(names[match[3]])} and {quote(name)} are the same factor. "
                "Keep one of them."
            )
        names[match[3]] = name
    if not named:
        raise AdapterError("The file holds no LoRA tensors. Check that training saved the adapter.")
    for names in named.values():
        _check_both(names)
    return named


def _check_both(names: _Names) -> None:
    if len(names) == 1:
        ((factor, name),) = names.items()
        missing = "B" if factor == "A" else "A"
        raise AdapterError(
            f"The tensor {quote(name)} has no lora_{missing} to go with it. The file is "
            "incomplete; save the adapter again."
        )


def _check_factors(
    tensors: Mapping[str, Tensor], names: _Names, shape: ModelShape, module: Module
) -> None:
    """A is [rank, in_features], B [out_features, rank], rank is at least 1, and all is finite."""
    a, b = tensors[names["A"]], tensors[names["B"]]
    _check_size(a, names["A"], 1, shape.in_features(module))
    _check_size(b, names["B"], 0, shape.out_features(module))
    if a.shape[0] == 0:
        raise AdapterError(f"The tensor {quote(names['A'])} has rank 0. Remove the pair.")
    if a.shape[0] != b.shape[1]:
        raise AdapterError(
            f"The tensor {quote(names['A'])} has rank {a.shape[0]}, and {quote(names['B'])} rank "
            f"{b.shape[1]}; expected the same."
        )
    for factor, name in ((a, names["A"]), (b, names["B"])):
        if not is_finite(factor):
            raise AdapterError(
                f"The tensor {quote(name)} holds NaN or infinity. The training diverged; use an "
                "earlier checkpoint."
            )


def _check_size(tensor: Tensor, name: str, axis: int, expected: int) -> None:
    found = list(tensor.shape)
    wanted = [expected, "rank"] if axis == 0 else ["rank", expected]
    described = f"The tensor {quote(name)} has shape {found}; expected [{wanted[0]}, {wanted[1]}]."
    if tensor.ndim != 2:
        raise AdapterError(
            f"{described} Weights that were sharded in training must be gathered before saving."
        )
    if found[axis] != expected:
        raise AdapterError(
            f"{described} The adapter was probably trained for another base model.",
            code="wrong_base_model",
        )


def _check_rank(a: Tensor, name: str, expected: int) -> None:
    if a.shape[0] != expected:
        raise AdapterError(
            f"The tensor {quote(name)} has rank {a.shape[0]}, but r and rank_pattern give "
            f"{expected}. The scaling depends on it: save configuration and weights together."
        )


def _unknown_tensor(name: str) -> AdapterError:
    for part, reason in _REASONS.items():
        if part in name:
            return AdapterError(
                f"The tensor {quote(name)} cannot be used: {reason}.", code="unsupported_adapter"
            )
    return AdapterError(
        f"The tensor {quote(name)} is not known here. Expected names like "
        f"{_PREFIX}{module_path(0, Module.Q)}.lora_A.weight, for "
        f"{', '.join(path.partition('.')[2] for path in MODULE_PATHS.values())}.",
        code="unsupported_adapter",
    )
