"""A tiny base with a tokenizer of bytes, two tiny experts, and examples for them."""

import json
from pathlib import Path

from motet.core.shape import ModelShape, Module
from tests.adapters.make import AdapterSpec, tiny_llama, write_lora
from tests.server.tiny_model import write_tiny_model

SHAPE = ModelShape(
    num_layers=2,
    hidden_size=32,
    intermediate_size=48,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    vocab_size=259,
)
TASKS = ("upper", "lower")


def write_base(directory: Path) -> Path:
    write_tiny_model(directory)
    tiny_llama(SHAPE).save_pretrained(directory)
    (directory / "generation_config.json").unlink()
    return directory


def write_experts(directory: Path) -> tuple[Path, Path]:
    """Two adapters of different ranks and projections, strong enough to be told apart."""
    upper = AdapterSpec(rank=4, seed=1, scale=0.3)
    lower = AdapterSpec(rank=2, seed=2, scale=0.3, modules=(Module.Q, Module.O, Module.DOWN))
    return (
        write_lora(directory / "upper", SHAPE, upper),
        write_lora(directory / "lower", SHAPE, lower),
    )


def segment(task: str, number: int) -> dict[str, str]:
    word = f"w{number}"
    if task == "upper":
        return {"task": task, "prompt": f"UP! {word}", "answer": word.upper()}
    return {"task": task, "prompt": f"low? {word.upper()}", "answer": word}


def write_examples(path: Path, num_single: int = 12, num_composite: int = 4) -> Path:
    lines = [[segment(task, i)] for i in range(num_single) for task in TASKS]
    lines += [[segment(task, 100 + i) for task in TASKS] for i in range(num_composite)]
    path.write_text("".join(json.dumps({"segments": line}) + "\n" for line in lines))
    return path
