"""Random LoRA adapters in PEFT's format, for tests: with plain safetensors and JSON, or with PEFT.

Nothing here uses `motet.adapters`, so that a mistake there is not repeated in what tests it.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from motet.core.shape import MODULES, ModelShape, Module

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

TINY = ModelShape(
    num_layers=3,
    hidden_size=32,
    intermediate_size=48,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    vocab_size=64,
)

PATHS = {
    Module.Q: "self_attn.q_proj",
    Module.K: "self_attn.k_proj",
    Module.V: "self_attn.v_proj",
    Module.O: "self_attn.o_proj",
    Module.GATE: "mlp.gate_proj",
    Module.UP: "mlp.up_proj",
    Module.DOWN: "mlp.down_proj",
}


@dataclass(frozen=True)
class AdapterSpec:
    """What a random adapter should be like.

    Attributes:
        layers: touched layers; None is all.
        ranks: other ranks than `rank`, by (layer, module); they are written to `rank_pattern`.
        scale: standard deviation of A and B.
        segment: adapter name that is left in the keys, such as "default"; None is none.
        config: further fields of `adapter_config.json`, or other values for those above.
    """

    rank: int = 4
    alpha: float = 8
    modules: tuple[Module, ...] = MODULES
    layers: tuple[int, ...] | None = None
    ranks: Mapping[tuple[int, Module], int] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    use_rslora: bool = False
    seed: int = 0
    scale: float = 0.1
    segment: str | None = None
    config: Mapping[str, object] = field(default_factory=dict)


def key(layer: int, module: Module, factor: str, segment: str | None = None) -> str:
    """The name of a tensor in the file; `factor` is "A" or "B"."""
    infix = "" if segment is None else f".{segment}"
    return f"base_model.model.model.layers.{layer}.{PATHS[module]}.lora_{factor}{infix}.weight"


def random_tensors(shape: ModelShape, spec: AdapterSpec) -> dict[str, Tensor]:
    """A and B of each touched projection, both random, under PEFT's names."""
    generator = torch.Generator().manual_seed(spec.seed)
    tensors = {}
    for layer in range(shape.num_layers) if spec.layers is None else spec.layers:
        for module in spec.modules:
            rank = spec.ranks.get((layer, module), spec.rank)
            a = torch.randn(rank, shape.in_features(module), generator=generator)
            b = torch.randn(shape.out_features(module), rank, generator=generator)
            tensors[key(layer, module, "A", spec.segment)] = (a * spec.scale).to(spec.dtype)
            tensors[key(layer, module, "B", spec.segment)] = (b * spec.scale).to(spec.dtype)
    return tensors


def lora_config(spec: AdapterSpec) -> dict[str, object]:
    """The fields of `adapter_config.json` that matter, and those of `spec.config`."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-llama",
        "inference_mode": True,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.05,
        "bias": "none",
        "use_rslora": spec.use_rslora,
        "rank_pattern": {f"model.layers.{i}.{PATHS[m]}": r for (i, m), r in spec.ranks.items()},
        "target_modules": [PATHS[module].partition(".")[2] for module in spec.modules],
        **spec.config,
    }


def write_files(directory: Path, config: Mapping[str, object], tensors: dict[str, Tensor]) -> Path:
    """Write the two files, and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return directory


def write_lora(directory: Path, shape: ModelShape = TINY, spec: AdapterSpec | None = None) -> Path:
    """Write a random adapter for a base of this shape, and return its directory."""
    spec = AdapterSpec() if spec is None else spec
    return write_files(directory, lora_config(spec), random_tensors(shape, spec))


def write_base_config(directory: Path) -> Path:
    """A model directory of TINY without weights: checks and conversions read its sizes alone."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": TINY.hidden_size,
        "intermediate_size": TINY.intermediate_size,
        "num_hidden_layers": TINY.num_layers,
        "num_attention_heads": TINY.num_heads,
        "num_key_value_heads": TINY.num_kv_heads,
        "head_dim": TINY.head_dim,
        "vocab_size": TINY.vocab_size,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def tiny_llama(shape: ModelShape = TINY, seed: int = 0) -> "LlamaForCausalLM":
    """A random transformers Llama of this shape, float32, on the CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def write_peft_lora(
    directory: Path,
    model: "LlamaForCausalLM",
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **config: object,
) -> Path:
    """Have PEFT write an adapter for `model`, with random A and B; `model` is not changed.

    Args:
        dtype: what A and B are stored in.
        config: arguments of `peft.LoraConfig`.
    """
    from peft import LoraConfig, get_peft_model

    peft_model = get_peft_model(
        copy.deepcopy(model),
        LoraConfig(**{"task_type": "CAUSAL_LM", **config}),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
                parameter.data = parameter.data.to(dtype)
    peft_model.save_pretrained(directory, save_embedding_layers=False)
    return directory
