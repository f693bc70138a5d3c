"""Tiny random models of every supported architecture, as transformers builds and saves them.

Every size is distinct, so that a mixed-up dimension shows; every weight is far from its initial
value (biases and norms included), so that one left out shows too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MinistralConfig,
    MinistralForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

MAX_LEN = 64
VOCAB_SIZE = 131
WINDOW = 5  # smaller than any prompt of the tests

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_LEN,
    "rms_norm_eps": 1e-4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": [2, 7],
}


def _llama(**options: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_SIZES | options))


def _scaled_llama(**rope: Any) -> PreTrainedModel:
    return _llama(rope_parameters={"rope_theta": 500.0, **rope})


TINY_MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: _llama(rope_parameters={"rope_type": "default", "rope_theta": 777.0}),
    "llama-tied-biased": lambda: _llama(
        attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=32
    ),
    "llama-llama3-rope": lambda: _scaled_llama(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=16,
    ),
    "llama-linear-rope": lambda: _scaled_llama(rope_type="linear", factor=3.0),
    "llama-dynamic-rope": lambda: _scaled_llama(rope_type="dynamic", factor=3.0),
    "llama-yarn-rope": lambda: _scaled_llama(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16
    ),
    "mistral": lambda: MistralForCausalLM(
        MistralConfig(**_SIZES | {"sliding_window": None, "head_dim": 48})
    ),
    "mistral-window": lambda: MistralForCausalLM(
        MistralConfig(**_SIZES | {"sliding_window": WINDOW})
    ),
    "ministral": lambda: MinistralForCausalLM(
        MinistralConfig(
            **_SIZES
            | {
                "head_dim": 16,
                "sliding_window": WINDOW,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            }
        )
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SIZES)),
    "qwen2-tied-window": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **_SIZES
            | {
                "use_sliding_window": True,
                "sliding_window": WINDOW,
                "max_window_layers": 1,
                "tie_word_embeddings": True,
            }
        )
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SIZES | {"head_dim": 48})),
    "qwen3-tied-biased": lambda: Qwen3ForCausalLM(
        Qwen3Config(
            **_SIZES | {"head_dim": 32, "attention_bias": True, "tie_word_embeddings": True}
        )
    ),
    "smollm3": lambda: SmolLM3ForCausalLM(
        SmolLM3Config(
            **_SIZES
            | {
                "no_rope_layer_interval": 2,
                "use_sliding_window": True,
                "sliding_window": WINDOW,
                "tie_word_embeddings": False,
            }
        )
    ),
}


def tiny_model(name: str, seed: int = 0) -> PreTrainedModel:
    """The named model in float32, in evaluation mode, every weight drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    model = TINY_MODELS[name]()
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        for tensor_name, parameter in model.named_parameters():
            parameter.normal_(generator=generator)
            if parameter.dim() == 2:
                parameter.mul_(parameter.shape[1] ** -0.5)
            elif "norm" in tensor_name:
                parameter.mul_(0.2).add_(1.0)
    return model.eval()


def save_tiny_model(name: str, directory: Path, seed: int = 0, **options: Any) -> PreTrainedModel:
    """Save the named model as a Hugging Face directory; `options` are save_pretrained's."""
    model = tiny_model(name, seed)
    model.save_pretrained(directory, **options)
    return model


@torch.no_grad()
def reference_logits(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """transformers' logits of one sequence, float32 [len(token_ids), vocab_size]."""
    logits: torch.Tensor = model(torch.tensor([token_ids]), use_cache=False).logits[0].float()
    return logits


def random_tokens(generator: torch.Generator, num_tokens: int) -> list[int]:
    """Token ids of a tiny model."""
    return torch.randint(VOCAB_SIZE, (num_tokens,), generator=generator).tolist()
