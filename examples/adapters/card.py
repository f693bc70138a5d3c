"""Writes a trained adapter: PEFT directory, model card, example prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evaluate import MAX_NEW_TOKENS, Score
from peft import get_peft_model_state_dict
from recipes import Recipe
from safetensors.torch import save_file
from tasks import Example, Task

from motet.models.default_model import DEFAULT_MODEL_NAME

NUM_PROMPTS = 3


@dataclass(frozen=True)
class Training:
    """What a training run did and how it ended."""

    seed: int
    num_train: int
    num_peek: int
    num_steps: int
    num_parameters: int
    train_s: float
    base_score: Score
    adapter_score: Score
    base_answer: str  # what the base model says to the first held-out prompt


def write_adapter(
    adapter_dir: Path,
    model: Any,
    task: Task,
    recipe: Recipe,
    training: Training,
    held_out: Sequence[Example],
) -> None:
    """Write weights in bfloat16, the config and the card, and add to `prompts.json` beside it."""
    adapter_dir.mkdir(parents=True, exist_ok=True)
    weights = {
        key: tensor.to(torch.bfloat16).contiguous()
        for key, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    weights_path = adapter_dir / "adapter_model.safetensors"
    save_file(weights, weights_path, metadata={"format": "pt"})
    weights_path.chmod(0o644)  # safetensors writes 0600, and a server may be another user
    _write_config(adapter_dir, model)
    card = render_card(task, recipe, training, held_out[0])
    (adapter_dir / "README.md").write_text(card)
    add_prompts(adapter_dir.parent / "prompts.json", task.name, held_out)


def render_card(task: Task, recipe: Recipe, training: Training, example: Example) -> str:
    """The model card, with `example` as the example."""
    return _CARD.format(
        name=task.name,
        title=task.title,
        base=DEFAULT_MODEL_NAME,
        prompt=example.prompt,
        answer=example.answer,
        base_answer=training.base_answer.strip(),
        request=_request(task.name, example.prompt),
        rank=_describe_rank(recipe),
        modules=_describe_modules(recipe),
        scaling="alpha / sqrt(rank) (rsLoRA)" if recipe.use_rslora else "alpha / rank",
        num_parameters=training.num_parameters,
        num_train=training.num_train,
        num_peek=training.num_peek,
        num_held_out=training.base_score.num_examples,
        base_score=training.base_score,
        adapter_score=training.adapter_score,
        max_new_tokens=MAX_NEW_TOKENS,
        num_steps=training.num_steps,
        examples_per_step=recipe.examples_per_step,
        peak_lr=recipe.peak_lr,
        seed=training.seed,
        train_min=training.train_s / 60,
    )


def add_prompts(path: Path, name: str, held_out: Sequence[Example]) -> None:
    """Put the first held-out examples of adapter `name` into the JSON file at `path`."""
    prompts = json.loads(path.read_text()) if path.exists() else {}
    prompts[name] = [{"prompt": e.prompt, "answer": e.answer} for e in held_out[:NUM_PROMPTS]]
    _write_json(path, dict(sorted(prompts.items())))


def _write_config(adapter_dir: Path, model: Any) -> None:
    config = model.peft_config["default"]
    # PEFT puts the directory that the base was loaded from here, which is a path of one machine.
    config.base_model_name_or_path = DEFAULT_MODEL_NAME
    config.inference_mode = True
    config.save_pretrained(adapter_dir)
    path = adapter_dir / "adapter_config.json"
    fields = json.loads(path.read_text())
    fields["target_modules"].sort()  # a set in memory, so its order is not stable
    _write_json(path, fields)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _describe_rank(recipe: Recipe) -> str:
    text = f"{recipe.rank} (alpha {recipe.alpha})"
    for pattern, rank in recipe.rank_pattern.items():
        text += f"; {rank} (alpha {recipe.alpha_pattern[pattern]}) for `{pattern}`"
    return text


def _describe_modules(recipe: Recipe) -> str:
    text = ", ".join(recipe.modules)
    if recipe.layers:
        text += f", in layers {recipe.layers[0]} to {recipe.layers[-1]} only"
    return text


def _request(model_name: str, prompt: str) -> str:
    body = {
        "model": model_name,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": MAX_NEW_TOKENS,
    }
    # A single quote would end the shell's quoting; JSON spells it as an escape as well.
    return json.dumps(body, ensure_ascii=False).replace("'", "\\u0027")


_CARD = """---
base_model: {base}
library_name: peft
license: apache-2.0
pipeline_tag: text-generation
tags:
- lora
---

# {name}

{title}. A LoRA adapter for {base}, trained on synthetic data as an example
of what Motet serves.

## Example

Prompt, sent as the user's message through the model's chat template:

```text
{prompt}
```

The answer expected:

```text
{answer}
```

What the base model says:

```text
{base_answer}
```

Request:

```sh
curl http://localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{request}'
```

[`prompts.json`](../prompts.json) holds more held-out prompts with the answers expected.

## Quality

{num_held_out} held-out examples: drawn by the same generator as the training data, and none of
their prompts is in it. Greedy generation of at most {max_new_tokens} tokens, the same prompts for
both. An answer is exact if it equals the one expected, and contained if the one expected occurs
anywhere in it.

| | exact | contained |
|---|---|---|
| base model | {base_score.exact:.0%} | {base_score.contained:.0%} |
| with this adapter | {adapter_score.exact:.0%} | {adapter_score.contained:.0%} |

## How it was made

| | |
|---|---|
| rank | {rank} |
| modules | {modules} |
| scaling | {scaling} |
| parameters | {num_parameters:,}, stored in bfloat16 |
| data | task `{name}` in `examples/adapters/tasks.py`, seed {seed}, up to {num_train:,} examples |
| training | {num_steps} steps of {examples_per_step} examples, AdamW, peak rate {peak_lr:g}, \
loss on answer tokens only |
| end | when {num_peek} examples kept out of training were all right, or at the last step |
| time | {train_min:.0f} minutes with one thread of a CPU that was shared with other work |

```sh
python examples/adapters/train.py {name} --seed {seed} --out examples/adapters
```

The adapter knows its generator's phrasings and little else. It is an example and a test object,
not a product.
"""
