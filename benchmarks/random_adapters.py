"""Writes PEFT adapters with random weights for any decoder, as work for benchmarks.

Owns: the directories, readable by PEFT and by Motet alike.
Does not know: who loads them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# Large enough to change what is generated, small enough that the text stays a model's text.
_DELTA_SCALE = 0.05


def write_adapters(
    model_dir: Path, out_dir: Path, ranks: Sequence[int], seed: int
) -> dict[str, Path]:
    """Write one adapter per rank, each on all seven projections of every layer, in bfloat16.

    Returns:
        The directory of each adapter by its name, such as "adapter-03-rank-64".
    """
    sizes = _linear_sizes(model_dir)
    generator = torch.Generator().manual_seed(seed)
    directories = {}
    for index, rank in enumerate(ranks):
        name = f"adapter-{index:02d}-rank-{rank}"
        directories[name] = out_dir / name
        _write(directories[name], sizes, rank, generator)
    return directories


def _linear_sizes(model_dir: Path) -> dict[str, tuple[int, int]]:
    """(in_features, out_features) of each projection by its full name in the model."""
    config = AutoConfig.from_pretrained(model_dir)
    with torch.device("meta"):  # shapes alone: nothing is allocated
        model = AutoModelForCausalLM.from_config(config)
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in MODULES
    }


def _write(
    directory: Path, sizes: dict[str, tuple[int, int]], rank: int, generator: torch.Generator
) -> None:
    directory.mkdir(parents=True)
    weights = {}
    for name, (in_features, out_features) in sizes.items():
        prefix = f"base_model.model.{name}"
        a = torch.randn(rank, in_features, generator=generator) / in_features**0.5
        b = torch.randn(out_features, rank, generator=generator) * (_DELTA_SCALE / rank**0.5)
        weights[f"{prefix}.lora_A.weight"] = a.to(torch.bfloat16)
        weights[f"{prefix}.lora_B.weight"] = b.to(torch.bfloat16)
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(MODULES),
        "inference_mode": True,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
