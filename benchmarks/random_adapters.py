"""Writes PEFT adapters with random weights for any decoder, as work for benchmarks.

Owns: the two files of a directory, readable by PEFT and by Motet alike.
Does not know: who loads them, nor how thousands of them share weights (`adapter_farm.py`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

WEIGHTS_FILE = "adapter_model.safetensors"

# (in_features, out_features) of projections by name.
LinearSizes = Mapping[str, tuple[int, int]]

# Large enough to change what is generated, small enough that the text stays a model's text.
_DELTA_SCALE = 0.05


def write_adapters(
    model_dir: Path, out_dir: Path, ranks: Sequence[int], seed: int
) -> dict[str, Path]:
    """Write one adapter per rank, each on all seven projections of every layer, in bfloat16.

    Returns:
        The directory of each adapter by its name, such as "adapter-03-rank-64".
    """
    sizes = linear_sizes(model_dir)
    generator = torch.Generator().manual_seed(seed)
    directories = {}
    for index, rank in enumerate(ranks):
        name = f"adapter-{index:02d}-rank-{rank}"
        directory = directories[name] = out_dir / name
        directory.mkdir(parents=True)
        write_weights(directory / WEIGHTS_FILE, sizes, rank, generator)
        write_config(directory, rank, lora_alpha=rank, modules=MODULES)
    return directories


def linear_sizes(model_dir: Path) -> LinearSizes:
    """The sizes of each projection by its full name, such as model.layers.0.mlp.up_proj."""
    config = AutoConfig.from_pretrained(model_dir)
    with torch.device("meta"):  # shapes alone: nothing is allocated
        model = AutoModelForCausalLM.from_config(config)
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in MODULES
    }


def write_weights(path: Path, sizes: LinearSizes, rank: int, generator: torch.Generator) -> None:
    """Write random A and B of each of these projections, in bfloat16."""
    weights = {}
    for name, (in_features, out_features) in sizes.items():
        prefix = f"base_model.model.{name}"
        a = torch.randn(rank, in_features, generator=generator) / in_features**0.5
        b = torch.randn(out_features, rank, generator=generator) * (_DELTA_SCALE / rank**0.5)
        weights[f"{prefix}.lora_A.weight"] = a.to(torch.bfloat16)
        weights[f"{prefix}.lora_B.weight"] = b.to(torch.bfloat16)
    save_file(weights, path, metadata={"format": "pt"})


def write_config(directory: Path, rank: int, lora_alpha: float, modules: Sequence[str]) -> None:
    """Write the `adapter_config.json` of an adapter of one rank on these modules."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(modules),
        "inference_mode": True,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
