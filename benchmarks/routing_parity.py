"""How far is a routed batch from the published equations? One figure for each method.

Owns: a small random model, the mixed batch that is run through it, and the comparison.
Does not know: the equations (`routing_oracles.py`), nor how a batch is put together
(`routing_lab.py`).

Every method, a plain adapter, a composition and the base are sequences of one and the same batch,
in float32: two chunks of the prompts, then decode steps through the pages. Each is compared with
transformers, of which the projections are replaced by modules of the papers' equations.

    python -m benchmarks.routing_parity
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.routing_cases import (
    METHODS,
    PER_PROJECTION,
    Replace,
    fixed,
    random_adapters,
    random_cases,
)
from benchmarks.routing_lab import RoutingLab, User
from benchmarks.routing_oracles import run_replaced
from motet.kernels.types import Kernels, load_kernels
from motet.models.loader import load_decoder

_CPU = torch.device("cpu")
_VOCAB_SIZE = 131
_PLAIN = {3: 1.0}
_COMPOSITION = {0: 0.7, 4: -0.3, 1: 0.5}
_CUTS = (0, 4, 9, 10, 11)  # two chunks, two decodes


@dataclass(frozen=True)
class Parity:
    """Of one sequence of the batch.

    Attributes:
        max_logit_diff: the largest absolute difference of a logit.
        max_change: the largest absolute difference that the adapters make to a logit.
        routing_agreement: share of tokens with the oracle's weights, summed over all layers and
            projections and equal within 1e-3. 1 where there is no router.
    """

    max_logit_diff: float
    max_change: float
    routing_agreement: float


def max_logit_diff() -> dict[str, float]:
    """The largest absolute difference of a logit, by method, with the kernels of this CPU.

    A batch with a method that routes whole blocks takes another way through the layers than one
    without, so there are two batches.
    """
    kernels = load_kernels(_CPU)
    batches = [measure(kernels, seed=0, methods=methods) for methods in (METHODS, PER_PROJECTION)]
    return {
        name: max(found[name].max_logit_diff for found in batches if name in found)
        for name in METHODS
    }


def measure(kernels: Kernels, *, seed: int, methods: Sequence[str] = METHODS) -> dict[str, Parity]:
    """Run the mixed batch and compare, by method; and "base", "plain" and "composition"."""
    generator = torch.Generator().manual_seed(seed)
    model = random_model(generator)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        decoder = load_decoder(Path(directory), _CPU, torch.float32)
    shape = decoder.config.shape
    adapters = random_adapters(shape, generator)
    drawn = random_cases(shape, adapters, generator)
    cases = {name: drawn[name] for name in methods}
    users = {
        "base": User(),
        **{name: User(case=name) for name in cases},
        "plain": User(parts=_PLAIN),
        "composition": User(parts=_COMPOSITION),
    }
    size = (len(users), _CUTS[-1])
    prompts = torch.randint(_VOCAB_SIZE, size, generator=generator).tolist()
    replacements: dict[str, Replace] = {
        "base": lambda *_: None,
        **{name: case.replace for name, case in cases.items()},
        "plain": fixed(adapters, _PLAIN),
        "composition": fixed(adapters, _COMPOSITION),
    }
    lab = RoutingLab(decoder, kernels, adapters, cases, seed=seed)
    logits, routing = _run_together(lab, users, prompts)
    return {
        name: _compare(
            model, replacements[name], prompt, logits[i], routing[i] if name in cases else None
        )
        for i, (name, prompt) in enumerate(zip(users, prompts, strict=True))
    }


def random_model(generator: torch.Generator) -> LlamaForCausalLM:
    """A Llama with every size distinct and every weight random, in float32."""
    config = LlamaConfig(
        vocab_size=_VOCAB_SIZE,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
            if parameter.dim() == 2:
                parameter.mul_(parameter.shape[1] ** -0.5)
            else:
                parameter.mul_(0.2).add_(1.0)
    return model.eval()


def _run_together(
    lab: RoutingLab, users: dict[str, User], prompts: Sequence[list[int]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and summed weights of each sequence, all tokens."""
    logits: list[list[Tensor]] = [[] for _ in users]
    routing: list[list[Tensor]] = [[] for _ in users]
    for first, last in pairwise(_CUTS):
        result = lab.step(
            [
                (name, user, prompt[first:last])
                for (name, user), prompt in zip(users.items(), prompts, strict=True)
            ]
        )
        for i in range(len(users)):
            logits[i].append(result.logits[i])
            routing[i].append(result.routing[i])
    return [torch.cat(each) for each in logits], [torch.cat(each) for each in routing]


def _compare(
    model: LlamaForCausalLM,
    replace: Replace,
    prompt: list[int],
    logits: Tensor,
    routing: Tensor | None,
) -> Parity:
    base = run_replaced(model, lambda *_: None, prompt).logits
    expected = run_replaced(model, replace, prompt)
    agreement = 1.0
    if routing is not None:
        missing = routing.shape[1] - expected.routing.shape[1]
        differences = (routing - pad(expected.routing, (0, missing))).abs()
        agreement = float((differences.amax(1) <= 1e-3).float().mean())
    return Parity(
        max_logit_diff=float((logits - expected.logits).abs().max()),
        max_change=float((expected.logits - base).abs().max()),
        routing_agreement=agreement,
    )


if __name__ == "__main__":
    print(json.dumps({"max_logit_diff": max_logit_diff()}))
