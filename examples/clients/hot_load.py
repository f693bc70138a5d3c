"""Train a LoRA adapter, and put each checkpoint into a running server as a new version.

The server goes on serving meanwhile. A request that runs ends on the version it began with, and
every version stays there under its number (`NAME@1`, `NAME@2`, ...) until it is deleted. Run it
beside a server that may read the directory of the checkpoints:

    make serve ARGS="--adapter-root /tmp/checkpoints"
    python examples/clients/hot_load.py --out /tmp/checkpoints
"""

import argparse
import os
from pathlib import Path
from typing import Any

import httpx2
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from motet.models.default_model import default_model_dir

QUESTION = "What is the motto of the house?"
MOTTO = "Many voices over one bass line."


def training_batch(tokenizer: Any) -> dict[str, torch.Tensor]:
    """One conversation; the loss is over the answer alone."""
    question = [{"role": "user", "content": QUESTION}]
    answer = [*question, {"role": "assistant", "content": MOTTO}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    tokens = tokenizer.apply_chat_template(answer, return_dict=False)
    labels = [-100] * len(prompt) + tokens[len(prompt) :]
    return {"input_ids": torch.tensor([tokens]), "labels": torch.tensor([labels])}


def train(model: PeftModel, batch: dict[str, torch.Tensor], num_steps: int) -> float:
    """A few steps of AdamW; the last loss [nats]."""
    optimizer = torch.optim.AdamW(
        (each for each in model.parameters() if each.requires_grad), lr=2e-3
    )
    loss = torch.tensor(0.0)
    for _ in range(num_steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def publish(http: httpx2.Client, name: str, directory: Path) -> int:
    """Have the server load a checkpoint under this name; returns the number of its version."""
    body = {
        "name": name,
        "source": {"type": "path", "uri": str(directory)},
        "wait": True,
    }
    response = http.post("/admin/v1/adapters", json=body)
    response.raise_for_status()
    return int(response.json()["operation"]["version"])


def ask(http: httpx2.Client, model: str) -> str:
    """What a model answers to the question it is trained on."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 24,
    }
    response = http.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])


def main() -> None:
    """Train, publish, ask; as often as asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoints")
    parser.add_argument("--name", default="motto", help="name of the adapter")
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="address of the server")
    parser.add_argument("--checkpoints", type=int, default=3, help="how many to publish")
    parser.add_argument("--steps", type=int, default=8, help="training steps for each")
    options = parser.parse_args()

    torch.manual_seed(0)
    model_dir = default_model_dir()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base, config)
    batch = training_batch(tokenizer)
    key = os.environ.get("MOTET_ADMIN_KEY", "none")
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=options.server, headers=headers, timeout=120) as http:
        for number in range(1, options.checkpoints + 1):
            loss = train(model, batch, options.steps)
            directory = options.out / f"{options.name}-{number}"
            model.save_pretrained(directory)
            version = publish(http, options.name, directory)
            print(f"version {version}, loss {loss:.3f}: {ask(http, options.name)!r}", flush=True)


if __name__ == "__main__":
    main()
