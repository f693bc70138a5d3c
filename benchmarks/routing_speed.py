"""Decode throughput of a routed set over that of one of its experts named.

Owns: a set of random experts and random gates on disk, and the rounds that take turns.
Does not know: the server.

With random gates the tokens of a batch choose differently in each projection, which is the worst
case: nearly all experts are read in every one of them.
"""

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.open_loop import Answer, Completion, CompletionClient, gather_all
from benchmarks.random_adapters import linear_sizes, write_adapters
from motet.adapters.peft_lora import load_adapter
from motet.models.config import load_config

TOP_K = 2

_FIRST_TOKEN_ID, _END_TOKEN_ID = 1000, 40_000  # ordinary words of the default model
_GATE_SCALE = 2.0


@dataclass(frozen=True, kw_only=True)
class SpeedPlan:
    """How much is decoded. Prompts are short: decoding is what is measured."""

    batch: int = 16
    num_prompt_tokens: int = 8
    num_output_tokens: int = 128
    num_repeats: int = 7


@dataclass(frozen=True)
class RandomSet:
    """A routed set on disk.

    Attributes:
        directory: of the set.
        experts: directories of its experts, which lie in it.
    """

    directory: Path
    experts: Sequence[Path]


def write_random_set(
    model_dir: Path, directory: Path, *, num_experts: int, rank: int, seed: int
) -> RandomSet:
    """Write MeteoRA's kind of set: a gate on each of the seven projections of every layer."""
    adapters = write_adapters(model_dir, directory / "experts", [rank] * num_experts, seed)
    shape = load_config(model_dir).shape
    generator = torch.Generator().manual_seed(seed)
    gates = {}
    for name, (in_features, _) in linear_sizes(model_dir).items():
        rows = torch.randn(num_experts, in_features, generator=generator)
        gates[f"{name.removeprefix('model.')}.gate.weight"] = rows * _GATE_SCALE / in_features**0.5
    save_file(gates, directory / "router.safetensors")
    config = {
        "format_version": 1,
        "method": "meteora",
        "base_model": {
            "name": model_dir.name,
            "hidden_size": shape.hidden_size,
            "num_layers": shape.num_layers,
        },
        "experts": [
            {
                "name": name,
                "digest": load_adapter(path, shape).digest,
                "path": str(path.relative_to(directory)),
            }
            for name, path in adapters.items()
        ],
        "top_k": TOP_K,
    }
    (directory / "router_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return RandomSet(directory, list(adapters.values()))


async def decode_rates(url: str, sides: Sequence[str], plan: SpeedPlan) -> dict[str, list[float]]:
    """Decode tokens/s of batches for each of these models, which take turns.

    The first turn of each warms up and is not counted.
    """
    rng = random.Random(0)
    rates: dict[str, list[float]] = {side: [] for side in sides}
    async with CompletionClient(url) as client:
        for repeat in range(plan.num_repeats + 1):
            for side in sides[:: 1 if repeat % 2 else -1]:
                rate = await _batch_rate(client, rng, side, plan)
                if repeat > 0:
                    rates[side].append(rate)
                    print(f"{side}, repeat {repeat}: {rate:.1f} tokens/s", file=sys.stderr)
    return rates


async def _batch_rate(
    client: CompletionClient, rng: random.Random, model: str, plan: SpeedPlan
) -> float:
    completions = [
        Completion(
            model=model,
            prompt=[
                rng.randrange(_FIRST_TOKEN_ID, _END_TOKEN_ID) for _ in range(plan.num_prompt_tokens)
            ],
            num_output_tokens=plan.num_output_tokens,
        )
        for _ in range(plan.batch)
    ]
    return decode_rate(
        await gather_all([asyncio.create_task(client.complete(each)) for each in completions])
    )


def decode_rate(answers: Sequence[Answer]) -> float:
    """Tokens/s from the moment when the last of the streams has begun to the end of all."""
    begun_s = max(answer.piece_times_s[0] for answer in answers)
    ended_s = max(answer.end_s for answer in answers)
    num_tokens = sum(answer.stream.num_output_tokens - 1 for answer in answers)
    return num_tokens / (ended_s - begun_s)
