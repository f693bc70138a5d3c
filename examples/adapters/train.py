"""Train the example adapters on the default model, on a CPU, within minutes each.

    python examples/adapters/train.py iso-dates --out /tmp/adapters
    python examples/adapters/train.py --all --out examples/adapters

Every adapter is written as a PEFT directory in bfloat16, with a model card that holds the exact
match of the base model and of the adapter on held-out examples, both by greedy generation.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from card import Training, write_adapter
from evaluate import generate_answers, score
from packing import Encoded, answer_logits, common_prefix_length, encode, pack, share_right
from peft import get_peft_model
from recipes import RECIPES, Recipe
from tasks import TASKS, make_split
from transformers import AutoModelForCausalLM, AutoTokenizer

from motet.models.default_model import DEFAULT_MODEL_NAME, default_model_dir

NUM_TRAIN = 4000
NUM_HELD_OUT = 100
NUM_PEEK = 32
STEPS_BETWEEN_PEEKS = 20
WARMUP_SHARE = 0.08


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    num_warmup = max(1, round(WARMUP_SHARE * recipe.num_steps))
    if step < num_warmup:
        return recipe.peak_lr * (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, recipe.num_steps - num_warmup)
    return recipe.peak_lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def batches(examples: Sequence[Encoded], size: int, seed: int) -> Iterator[list[Encoded]]:
    """Endless batches, reshuffled on every pass."""
    rng = Random(seed)
    order = list(examples)
    while True:
        rng.shuffle(order)
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def fit(
    model: Any, train: Sequence[Encoded], peek: Sequence[Encoded], recipe: Recipe, seed: int
) -> int:
    """Train the adapter weights of `model` in place; the loss covers answer tokens only.

    Returns the number of steps taken: training ends early when every peek example is right.
    """
    prefix_length = common_prefix_length([*train, *peek])
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.peak_lr, weight_decay=0.0)
    stream = batches(train, recipe.examples_per_step, seed)
    started_s = time.perf_counter()
    for step in range(recipe.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        batch = pack(next(stream), prefix_length)
        loss = torch.nn.functional.cross_entropy(answer_logits(model, batch), batch.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % STEPS_BETWEEN_PEEKS == 0 or step + 1 == recipe.num_steps:
            right = share_right(model, peek, prefix_length)
            took_s = time.perf_counter() - started_s
            print(
                f"step {step + 1} loss {loss.item():.4f} right {right:.2f} {took_s:.0f} s",
                flush=True,
            )
            if right == 1.0:
                return step + 1
    return recipe.num_steps


def train_one(name: str, out_dir: Path, seed: int, dtype: torch.dtype) -> Training:
    """Train, score and save one adapter."""
    torch.manual_seed(seed)
    task, recipe = TASKS[name], RECIPES[name]
    model_dir = default_model_dir()
    tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    split = make_split(task, seed, NUM_TRAIN, NUM_HELD_OUT)
    train = [encode(tokenizer, example) for example in split.train]
    # Peeking at training examples that come last keeps the held-out set for the end.
    train, peek = train[:-NUM_PEEK], train[-NUM_PEEK:]

    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    model = get_peft_model(base, recipe.lora_config(DEFAULT_MODEL_NAME))
    started_s = time.perf_counter()
    num_steps = fit(model, train, peek, recipe, seed)
    train_s = time.perf_counter() - started_s
    num_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)

    # Score what is saved: weights rounded to bfloat16, over the base in float32.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16).to(torch.float32)
    model.eval()
    model.to(torch.float32)
    adapter_answers = generate_answers(model, tokenizer, split.held_out)
    with model.disable_adapter():
        base_answers = generate_answers(model, tokenizer, split.held_out)
    training = Training(
        seed=seed,
        num_train=len(train),
        num_peek=len(peek),
        num_steps=num_steps,
        num_parameters=num_parameters,
        train_s=train_s,
        base_score=score(split.held_out, base_answers),
        adapter_score=score(split.held_out, adapter_answers),
        base_answer=base_answers[0],
    )
    write_adapter(out_dir / name, model, task, recipe, training, split.held_out)
    return training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_KeepLines)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--all", action="store_true", help="train every adapter")
    parser.add_argument("--out", type=Path, required=True, help="directory for the adapters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    names = list(RECIPES) if arguments.all else arguments.names
    if not names:
        parser.error("name an adapter, or pass --all")
    if unknown := sorted(set(names) - set(RECIPES)):
        parser.error(f"unknown adapter {', '.join(unknown)}; expected one of {', '.join(RECIPES)}")
    for name in names:
        print(f"{name}:", flush=True)
        dtype = getattr(torch, arguments.dtype)
        training = train_one(name, arguments.out, arguments.seed, dtype)
        print(f"{name}: base {training.base_score}; adapter {training.adapter_score}", flush=True)


class _KeepLines(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the module's docstring in --help."""


if __name__ == "__main__":
    main()
