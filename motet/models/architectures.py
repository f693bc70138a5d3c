"""The supported architectures, and the switches in which they differ.

Owns: the table of architectures, and how each reads its sliding windows and the layers that have
no rotary embedding. The measure is transformers' class of the same name, defaults included.
Does not know: the rest of a config (`config.py`), nor tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass

from motet.core.errors import ModelError
from motet.models.config_fields import ConfigFields, unsupported_value, wrong_value

_DEFAULT_WINDOW = 4096
_DEFAULT_MAX_WINDOW_LAYERS = 28
_DEFAULT_NO_ROPE_INTERVAL = 4


def _no_window(fields: ConfigFields, num_layers: int) -> tuple[int | None, ...]:
    if (window := fields.get("sliding_window")) is not None:
        raise unsupported_value("sliding_window", window, "no such field in this architecture")
    return (None,) * num_layers


def _mistral_windows(fields: ConfigFields, num_layers: int) -> tuple[int | None, ...]:
    """One window for all layers, or none: the class reads no `layer_types`."""
    window = _window(fields)
    kind = "full_attention" if window is None else "sliding_attention"
    layer_types = fields.list_of("layer_types", str, num_layers)
    if layer_types is not None and set(layer_types) != {kind}:
        raise unsupported_value("layer_types", layer_types, f"{kind!r} in every layer")
    return (window,) * num_layers


def _ministral_windows(fields: ConfigFields, num_layers: int) -> tuple[int | None, ...]:
    window = _window(fields)
    return _windows_by_layer_type(fields, window, (window,) * num_layers)


def _qwen_windows(fields: ConfigFields, num_layers: int) -> tuple[int | None, ...]:
    window = _window(fields) if fields.boolean("use_sliding_window", False) else None
    first = fields.integer("max_window_layers", _DEFAULT_MAX_WINDOW_LAYERS, minimum=0)
    default = tuple(window if i >= first else None for i in range(num_layers))
    return _windows_by_layer_type(fields, window, default)


def _smollm3_windows(fields: ConfigFields, num_layers: int) -> tuple[int | None, ...]:
    used = fields.boolean("use_sliding_window", False) and fields.get("sliding_window") is not None
    window = _window(fields) if used else None
    rotated = _smollm3_rope_layers(fields, num_layers)
    return _windows_by_layer_type(fields, window, tuple(None if r else window for r in rotated))


def _window(fields: ConfigFields) -> int | None:
    """The window that `sliding_window` names: a null turns it off, an absent field does not."""
    if fields.has("sliding_window") and fields.get("sliding_window") is None:
        return None
    return fields.integer("sliding_window", _DEFAULT_WINDOW)


def _windows_by_layer_type(
    fields: ConfigFields, window: int | None, default: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    layer_types = fields.list_of("layer_types", str, len(default))
    if layer_types is None:
        return default
    if not set(layer_types) <= {"full_attention", "sliding_attention"}:
        raise unsupported_value("layer_types", layer_types, "full_attention or sliding_attention")
    if window is None and "sliding_attention" in layer_types:
        raise wrong_value("layer_types", layer_types, "full_attention alone, as no window is set")
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)


def _rope_everywhere(fields: ConfigFields, num_layers: int) -> tuple[bool, ...]:
    if (layers := fields.get("no_rope_layers")) is not None:
        raise unsupported_value("no_rope_layers", layers, "no such field in this architecture")
    return (True,) * num_layers


def _smollm3_rope_layers(fields: ConfigFields, num_layers: int) -> tuple[bool, ...]:
    """`no_rope_layers` holds 1 where, against its name, there is a rotary embedding."""
    rotated = fields.list_of("no_rope_layers", int, num_layers)
    if rotated is not None:
        return tuple(map(bool, rotated))
    interval = fields.integer("no_rope_layer_interval", _DEFAULT_NO_ROPE_INTERVAL)
    return tuple((i + 1) % interval != 0 for i in range(num_layers))


@dataclass(frozen=True, slots=True)
class Architecture:
    """How an architecture differs from the others. A string names the field that decides."""

    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False
    num_kv_heads_may_be_absent: bool = False
    default_head_dim: int | None = None
    default_rope_theta: float = 10_000.0
    default_tied: bool = False
    sliding_windows: Callable[[ConfigFields, int], tuple[int | None, ...]] = _no_window
    rope_layers: Callable[[ConfigFields, int], tuple[bool, ...]] = _rope_everywhere


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture(
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        num_kv_heads_may_be_absent=True,  # Llama 1 and 2 came before grouped-query attention
    ),
    "MistralForCausalLM": Architecture(sliding_windows=_mistral_windows),
    "MinistralForCausalLM": Architecture(sliding_windows=_ministral_windows),
    "Qwen2ForCausalLM": Architecture(qkv_bias=True, sliding_windows=_qwen_windows),
    "Qwen3ForCausalLM": Architecture(
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        qk_norm=True,
        default_head_dim=128,
        sliding_windows=_qwen_windows,
    ),
    "SmolLM3ForCausalLM": Architecture(
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        default_rope_theta=2_000_000.0,
        default_tied=True,
        sliding_windows=_smollm3_windows,
        rope_layers=_smollm3_rope_layers,
    ),
}


def architecture_of(fields: ConfigFields) -> str:
    """The supported architecture that a config names.

    Raises:
        ModelError: it names none, or another.
    """
    named = fields.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    if name not in ARCHITECTURES:
        raise ModelError(
            f"config.json names the architecture {name!r}, which is not supported. "
            f"Supported are {', '.join(ARCHITECTURES)}.",
            code="unsupported_architecture",
        )
    return str(name)
