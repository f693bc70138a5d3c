"""What a decoder is, read from a Hugging Face `config.json`.

Owns: `DecoderConfig`, and the refusal of every field that would change the logits and that this
decoder does not honour.
Does not know: tensors. It never imports torch, so that the API process can read a model's shape.

The measure is transformers' class of the same name: what it reads is honoured or refused here;
what it ignores is ignored here too, unless `_NEUTRAL_VALUES` names it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from motet.core.errors import ModelError
from motet.core.shape import ModelShape
from motet.models.architectures import ARCHITECTURES, Architecture, architecture_of
from motet.models.config_fields import ConfigFields, unsupported_value, wrong_value
from motet.models.rope_config import RopeConfig, parse_rope

# What the attention kernels take: their rows fill whole SIMD registers and tensor-core tiles.
HEAD_DIM_MULTIPLE = 16

# Fields that would change the logits, and the values with which they do not; the first is what
# this decoder does. An absent field and a null are neutral.
_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "pretraining_tp": (1,),
    "partial_rotary_factor": (1,),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "is_causal": (True,),
    "use_bidirectional_attention": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "use_qk_norm": (False,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "attention_multiplier": (),
    "query_pre_attn_scalar": (),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "attention_chunk_size": (),
    "dual_chunk_attention_config": (),
    "clip_qkv": (),
    "quantization_config": (),
    "compression_config": (),
}


class HfConfig(Protocol):
    """A transformers configuration object."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A decoder: its shape, and every switch that its forward pass has.

    Attributes:
        architecture: the name in `architectures`, e.g. "LlamaForCausalLM".
        shape: the sizes that pool, adapters and kernels must agree on.
        rms_norm_eps: added to the mean square in every RMSNorm.
        rope: the rotary embedding.
        rope_layers: per layer, whether the rotary embedding is applied there.
        sliding_windows: per layer, how many tokens a token sees (itself included); None is all.
        tie_word_embeddings: whether the output head is the embedding matrix.
        qkv_bias, o_bias, mlp_bias: whether these projections have a bias.
        qk_norm: whether q and k go through an RMSNorm over head_dim before the rotation.
        max_position_embeddings: the longest sequence [tokens] that the model was made for.
        eos_token_ids: the tokens that end a generation; empty where none is named.
        dtype: the dtype that the checkpoint names, e.g. "bfloat16", or None.
    """

    architecture: str
    shape: ModelShape
    rms_norm_eps: float
    rope: RopeConfig
    rope_layers: tuple[bool, ...]
    sliding_windows: tuple[int | None, ...]
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]
    dtype: str | None


def load_config(model_dir: Path) -> DecoderConfig:
    """Read `config.json`, and the end tokens of `generation_config.json` where that names any.

    Raises:
        ModelError: a file is absent or not JSON, or `parse_config` refuses the model.
    """
    path = model_dir / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{model_dir} has no config.json. Expected a Hugging Face model directory: "
            "config.json, tokenizer files and *.safetensors."
        )
    config = _read_json_object(path)
    generation_path = model_dir / "generation_config.json"
    if generation_path.is_file():
        eos = _read_json_object(generation_path).get("eos_token_id")
        if eos is not None:
            config["eos_token_id"] = eos
    return parse_config(config)


def parse_config(source: Mapping[str, Any] | HfConfig) -> DecoderConfig:
    """Turn a Hugging Face config, as a mapping or as transformers' object, into ours.

    Raises:
        ModelError: the architecture is not supported, a field is missing or of the wrong type, or
            a field asks for something that this decoder does not do.
    """
    fields = ConfigFields(source if isinstance(source, Mapping) else source.to_dict())
    name = architecture_of(fields)
    architecture = ARCHITECTURES[name]
    for field, neutral in _NEUTRAL_VALUES.items():
        value = fields.get(field)
        if value is not None and value not in neutral:
            raise unsupported_value(field, value, f"{neutral[0]!r}" if neutral else "none")
    shape = _parse_shape(fields, architecture)
    return DecoderConfig(
        architecture=name,
        shape=shape,
        rms_norm_eps=fields.positive_float("rms_norm_eps", 1e-6),
        rope=parse_rope(fields, architecture.default_rope_theta),
        rope_layers=architecture.rope_layers(fields, shape.num_layers),
        sliding_windows=architecture.sliding_windows(fields, shape.num_layers),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", architecture.default_tied),
        qkv_bias=_parse_bias(fields, architecture.qkv_bias),
        o_bias=_parse_bias(fields, architecture.o_bias),
        mlp_bias=_parse_bias(fields, architecture.mlp_bias),
        qk_norm=architecture.qk_norm,
        max_position_embeddings=fields.integer("max_position_embeddings"),
        eos_token_ids=_parse_eos(fields),
        dtype=_parse_dtype(fields),
    )


def _parse_shape(fields: ConfigFields, architecture: Architecture) -> ModelShape:
    hidden_size = fields.integer("hidden_size")
    num_heads = fields.integer("num_attention_heads")
    default_head_dim = architecture.default_head_dim
    if default_head_dim is None:
        if fields.get("head_dim") is None and hidden_size % num_heads != 0:
            raise wrong_value("hidden_size", hidden_size, f"a multiple of {num_heads} heads")
        default_head_dim = hidden_size // num_heads
    kv_heads_known = fields.has("num_key_value_heads") or architecture.num_kv_heads_may_be_absent
    shape = ModelShape(
        num_layers=fields.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads if kv_heads_known else None),
        head_dim=fields.integer("head_dim", default_head_dim),
        vocab_size=fields.integer("vocab_size"),
    )
    if shape.num_heads % shape.num_kv_heads != 0:
        raise wrong_value("num_key_value_heads", shape.num_kv_heads, f"a divisor of {num_heads}")
    if shape.head_dim % HEAD_DIM_MULTIPLE != 0:
        expected = f"a multiple of {HEAD_DIM_MULTIPLE}, which the attention kernels need"
        raise wrong_value("head_dim", shape.head_dim, expected)
    return shape


def _parse_bias(fields: ConfigFields, switch: bool | str) -> bool:
    return fields.boolean(switch, False) if isinstance(switch, str) else switch


def _parse_eos(fields: ConfigFields) -> tuple[int, ...]:
    eos = fields.get("eos_token_id")
    ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise wrong_value("eos_token_id", eos, "a token id or a list of them")
    return tuple(ids)


def _parse_dtype(fields: ConfigFields) -> str | None:
    name = fields.get("dtype") or fields.get("torch_dtype")
    return None if name is None else str(name).removeprefix("torch.")


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__}, expected an object.")
    return value
