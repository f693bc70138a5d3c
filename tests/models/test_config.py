"""Reading config.json: equal to transformers' reading, and refusing what is not honoured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import (
    LlamaConfig,
    MinistralConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from motet.core.errors import ModelError
from motet.core.shape import ModelShape
from motet.models.architectures import ARCHITECTURES
from motet.models.config import load_config, parse_config
from tests.models.tiny import TINY_MODELS

HF_CONFIGS: dict[str, type[PretrainedConfig]] = {
    "LlamaForCausalLM": LlamaConfig,
    "MistralForCausalLM": MistralConfig,
    "MinistralForCausalLM": MinistralConfig,
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen3ForCausalLM": Qwen3Config,
    "SmolLM3ForCausalLM": SmolLM3Config,
}

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA = {"architectures": ["LlamaForCausalLM"], **SIZES}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], **SIZES}


def windows_of(hf: PretrainedConfig) -> tuple[int | None, ...]:
    layer_types = getattr(hf, "layer_types", None)
    window = getattr(hf, "sliding_window", None)
    if layer_types is None:
        return (window,) * hf.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)


def assert_same(values: dict[str, Any], hf: PretrainedConfig) -> None:
    config = parse_config(values)
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    assert config.shape == ModelShape(
        num_layers=hf.num_hidden_layers,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        num_heads=hf.num_attention_heads,
        num_kv_heads=hf.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=hf.vocab_size,
    )
    assert config.rms_norm_eps == hf.rms_norm_eps
    assert config.tie_word_embeddings == hf.tie_word_embeddings
    assert config.max_position_embeddings == hf.max_position_embeddings
    assert config.sliding_windows == windows_of(hf)
    assert config.rope.theta == hf.rope_parameters["rope_theta"]
    assert config.rope.rope_type == hf.rope_parameters["rope_type"]
    assert config.rope.scaling.items() <= hf.rope_parameters.items()
    no_rope = getattr(hf, "no_rope_layers", [1] * hf.num_hidden_layers)
    assert config.rope_layers == tuple(map(bool, no_rope))


@pytest.mark.parametrize("name", TINY_MODELS)
def test_as_object_and_as_dict(name: str) -> None:
    model = TINY_MODELS[name]()
    hf = model.config
    hf.architectures = [type(model).__name__]
    assert_same(hf.to_dict(), hf)
    assert parse_config(hf) == parse_config(hf.to_dict())
    assert parse_config(hf).eos_token_ids == (2, 7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"sliding_window": None},
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
        {"use_sliding_window": True, "max_window_layers": 0},
        {"use_sliding_window": False, "sliding_window": 7},
        {"head_dim": 32, "rope_theta": 123.0},
        {"head_dim": None, "tie_word_embeddings": True, "rms_norm_eps": 0.5},
        {"num_key_value_heads": None},
        {"rope_theta": 9.0, "rope_scaling": None},
        {"rope_theta": 9.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 9.0, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 11.0, "factor": 2.0}},
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 3.0},
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
        {
            "original_max_position_embeddings": 8,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ],
    ids=str,
)
def test_defaults_and_old_style_are_those_of_transformers(
    architecture: str, more: dict[str, Any]
) -> None:
    if architecture == "LlamaForCausalLM" and more.get("sliding_window") is not None:
        pytest.skip("refused: Llama has no window")
    values = {"architectures": [architecture], **SIZES, **more}
    try:  # transformers writes into the dicts that it is given
        hf = HF_CONFIGS[architecture](**json.loads(json.dumps(SIZES | more)))
    except StrictDataclassFieldValidationError:
        pytest.skip("transformers takes no null there")
    hf.standardize_rope_params()  # as its rotary embedding does
    assert_same(values, hf)


def test_biases() -> None:
    def biases(architecture: str, **more: bool) -> tuple[bool, bool, bool]:
        config = parse_config({"architectures": [architecture], **SIZES, **more})
        return config.qkv_bias, config.o_bias, config.mlp_bias

    assert biases("LlamaForCausalLM") == (False, False, False)
    assert biases("LlamaForCausalLM", attention_bias=True) == (True, True, False)
    assert biases("LlamaForCausalLM", mlp_bias=True) == (False, False, True)
    assert biases("MistralForCausalLM", attention_bias=True) == (False, False, False)
    assert biases("Qwen2ForCausalLM", attention_bias=False) == (True, False, False)
    assert biases("Qwen3ForCausalLM") == (False, False, False)
    assert biases("Qwen3ForCausalLM", attention_bias=True) == (True, True, False)


def test_only_qwen3_has_qk_norm() -> None:
    with_it = {
        name for name in ARCHITECTURES if parse_config({"architectures": [name], **SIZES}).qk_norm
    }
    assert with_it == {"Qwen3ForCausalLM"}


def test_llama_2_without_kv_heads() -> None:
    values = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
    assert parse_config(values).shape.num_kv_heads == 6


@pytest.mark.parametrize("architectures", [None, [], ["GPT2LMHeadModel"], "LlamaForCausalLM"])
def test_other_architectures(architectures: object) -> None:
    with pytest.raises(ModelError) as caught:
        parse_config({**SIZES, "architectures": architectures})
    assert caught.value.code == "unsupported_architecture"
    for name in ARCHITECTURES:
        assert name in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "gelu"),
        ("pretraining_tp", 2),
        ("partial_rotary_factor", 0.5),
        ("rope_interleaved", True),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("quantization_config", {"quant_method": "gptq"}),
        ("embedding_multiplier", 12.0),
        ("logits_scaling", 8.0),
        ("sliding_window", 4096),
        ("no_rope_layers", [1, 0, 1, 0, 1]),
        ("dual_chunk_attention_config", {"chunk_size": 1}),
        ("use_mrope", True),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ModelError) as caught:
        parse_config({**LLAMA, name: value})
    assert caught.value.code == "unsupported_model_option"
    assert name in caught.value.message
    assert repr(value) in caught.value.message


def test_neutral_values_pass() -> None:
    neutral = {
        "hidden_act": "silu",
        "pretraining_tp": 1,
        "partial_rotary_factor": 1.0,
        "rope_interleaved": False,
        "use_mrope": False,
        "quantization_config": None,
        "attn_logit_softcapping": None,
        "attention_dropout": 0.1,
    }
    assert parse_config({**LLAMA, **neutral}) == parse_config(LLAMA)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
        {"rope_type": "default", "mrope_section": [16, 24, 24]},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": "2"},
        {"rope_type": "llama3", "factor": 8.0},
        {"rope_type": "yarn", "factor": 4.0, "attn_factor": 2.0},
        {"rope_type": "default", "rope_theta": 0},
        {"full_attention": {"rope_type": "default"}},
    ],
    ids=str,
)
def test_rope_parameters_that_are_refused(rope: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        parse_config({**LLAMA, "rope_parameters": rope})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({**LLAMA, "hidden_size": None}, "hidden_size"),
        ({**LLAMA, "hidden_size": 96.0}, "hidden_size"),
        ({**LLAMA, "hidden_size": 97}, "hidden_size"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers"),
        ({**LLAMA, "num_key_value_heads": 4}, "num_key_value_heads"),
        ({**LLAMA, "head_dim": 15}, "head_dim"),
        ({**LLAMA, "head_dim": True}, "head_dim"),
        ({**LLAMA, "rms_norm_eps": "1e-5"}, "rms_norm_eps"),
        ({**LLAMA, "tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({**LLAMA, "eos_token_id": "</s>"}, "eos_token_id"),
        ({**LLAMA, "rope_scaling": [1]}, "rope_scaling"),
        ({k: v for k, v in QWEN2.items() if k != "num_key_value_heads"}, "num_key_value_heads"),
        ({k: v for k, v in QWEN2.items() if k != "vocab_size"}, "vocab_size"),
        ({**QWEN2, "layer_types": ["full_attention"]}, "layer_types"),
        ({**QWEN2, "layer_types": ["sliding_attention"] * 5}, "layer_types"),
        ({**QWEN2, "layer_types": ["linear_attention"] * 5}, "layer_types"),
        ({**QWEN2, "use_sliding_window": True, "sliding_window": -1}, "sliding_window"),
        ({**QWEN2, "max_window_layers": "x"}, "max_window_layers"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_config(values)
    assert name in caught.value.message


def test_end_tokens_of_the_generation_config_win(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "eos_token_id": 5}))
    assert load_config(tmp_path).eos_token_ids == (5,)
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps({"temperature": 0.6}))
    assert load_config(tmp_path).eos_token_ids == (5,)
    generation.write_text(json.dumps({"eos_token_id": [9, 8]}))
    assert load_config(tmp_path).eos_token_ids == (9, 8)


@pytest.mark.parametrize("content", [None, "{", "[]", "\xff"])
def test_a_config_that_is_none(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_config(tmp_path)


def test_torch_is_not_imported() -> None:
    code = (
        "import sys, motet.models.config; assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
