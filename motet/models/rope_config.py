"""The rotary embedding's parameters, read from a Hugging Face config of either style.

Owns: `RopeConfig`, and which parameters each rope type takes.
Does not know: frequencies, cosines and sines (`rope.py`), nor torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from motet.core.errors import ModelError
from motet.models.config_fields import ConfigFields, unsupported_value, wrong_value

_ORIGINAL_LENGTH = "original_max_position_embeddings"

# The parameters that a rope type must and may have. "dynamic" stretches its frequencies only for
# sequences beyond max_position_embeddings, and no sequence here goes there.
_REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "llama3": (_ORIGINAL_LENGTH,),
    "yarn": (
        _ORIGINAL_LENGTH,
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
}
_WITHOUT_EFFECT = {"type", "rope_type", "rope_theta", "finetuned", _ORIGINAL_LENGTH}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """A rotary embedding: its type, and the numbers that this type needs.

    Attributes:
        rope_type: "default", "linear", "dynamic", "llama3" or "yarn", as transformers names them.
        theta: base of the frequencies.
        scaling: the type's parameters, under transformers' names; empty for "default".
    """

    rope_type: str
    theta: float
    scaling: Mapping[str, Any]


def parse_rope(fields: ConfigFields, default_theta: float) -> RopeConfig:
    """Read `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before).

    Raises:
        ModelError: the type is not supported, or its parameters are missing or not its own.
    """
    # Where a file has both styles, transformers takes the old one.
    name = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    parameters = fields.get(name) or {}
    if not isinstance(parameters, dict):
        raise wrong_value(name, parameters, "an object")
    given = {key: value for key, value in parameters.items() if value is not None}
    rope_type = given.get("rope_type", given.get("type", "default"))
    if rope_type not in _REQUIRED:
        raise unsupported_value(f"{name}.rope_type", rope_type, f"one of {', '.join(_REQUIRED)}")
    if given.pop("partial_rotary_factor", 1) != 1:
        raise unsupported_value(
            f"{name}.partial_rotary_factor", parameters["partial_rotary_factor"], "1"
        )
    theta = ConfigFields(given).positive_float(
        "rope_theta", fields.positive_float("rope_theta", default_theta)
    )
    return RopeConfig(rope_type, theta, _parse_scaling(name, given, rope_type, fields))


def _parse_scaling(
    name: str, given: dict[str, Any], rope_type: str, fields: ConfigFields
) -> dict[str, Any]:
    required = _REQUIRED[rope_type]
    known = {*required, *_OPTIONAL.get(rope_type, ())}
    if unknown := given.keys() - known - _WITHOUT_EFFECT:
        raise unsupported_value(
            name,
            {key: given[key] for key in sorted(unknown)},
            f"the parameters of the type {rope_type!r} alone: {', '.join(sorted(known)) or 'none'}",
        )
    if missing := set(required) - given.keys():
        raise ModelError(
            f"config.json lacks {', '.join(sorted(missing))} in {name}, which the rope type "
            f"{rope_type!r} needs."
        )
    scaling = {key: value for key, value in given.items() if key in known}
    for key, value in scaling.items():
        expected = bool if key == "truncate" else (int, float)
        if not isinstance(value, expected):
            raise wrong_value(f"{name}.{key}", value, "a number (truncate: true or false)")
    if _ORIGINAL_LENGTH in known:
        # In transformers the field beside the object wins over the one inside it.
        inside = scaling.get(_ORIGINAL_LENGTH, fields.integer("max_position_embeddings"))
        scaling[_ORIGINAL_LENGTH] = fields.integer(_ORIGINAL_LENGTH, inside)
    return scaling
