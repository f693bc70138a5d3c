"""From adapters and examples to a router: one run, from its options to its files.

Owns: the order of a run.
Does not know: how it is asked for and shown (`server/train_router_command.py`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from motet.core.errors import ConfigError
from motet.core.routing import RoutingRule
from motet.core.shape import Module
from motet.models.config import load_config
from motet.training.arrow import prototype_gates
from motet.training.card import write_card
from motet.training.checkpoint import CHECKPOINT_NAME
from motet.training.encoding import Encoded, batches, encode
from motet.training.evaluate import Evaluation, evaluate
from motet.training.examples import Example, read_examples
from motet.training.experts import load_experts
from motet.training.fit import StepLosses, fit
from motet.training.methods import METHODS, serving_rule, training_rule
from motet.training.options import TrainingOptions
from motet.training.result import WEIGHTS_NAME, write_config, write_gates
from motet.training.routed_model import RoutedModel, gate_name

Gates = dict[tuple[int, Module], Tensor]


class Watcher(Protocol):
    """Who shows how a run goes."""

    def on_step(self, num_done: int, losses: StepLosses) -> None:
        """After each training step."""

    def on_part(self, name: str) -> None:
        """Before each part of the evaluation."""


def train_router(options: TrainingOptions, watcher: Watcher) -> Evaluation | None:
    """Train a router and write it, with its card, to `options.out`.

    Returns:
        How good it is on the held-out examples; None without any.

    Raises:
        ConfigError: data or options are wrong, or there is no such run to go on from.
        AdapterError: an expert cannot be used with this base.
        ModelError: the base cannot be read.
    """
    run = _Run(options)
    # All input is read before the first step: a mistake in it should not cost an hour.
    train = run.read(options.data, learns_prompts=options.learns_prompts)
    held_out = run.read(options.held_out)
    options.out.mkdir(parents=True, exist_ok=True)
    if train:
        _train(run, [encoded for _, encoded in train], watcher)
    measured = _evaluate(run, held_out, watcher) if held_out else None
    write_config(
        options.out,
        method=options.method,
        rule=run.rule,
        base_name=options.base_name,
        shape=run.shape,
        experts=run.experts,
        provenance=provenance(options),
        evaluation={} if measured is None else msgspec.to_builtins(measured),
    )
    write_card(options, run.experts, measured)
    (options.out / CHECKPOINT_NAME).unlink(missing_ok=True)  # there is nothing left to go on with
    return measured


def provenance(options: TrainingOptions) -> dict[str, object]:
    """What decides the numbers of the result, and nothing of the machine that it was made on."""
    if not METHODS[options.method].is_trained:
        return {}
    assert options.data is not None  # options without it are refused
    return {
        "data": options.data.name,
        "seed": options.seed,
        "tokens_per_step": options.tokens_per_step,
        "learns_prompts": options.learns_prompts,
        "dtype": options.dtype.value,
        **asdict(options.recipe),
    }


class _Run:
    """What the parts of a run share; nothing of it changes.

    Attributes:
        rule: the one that the router will be served by.
        keys: the projections with gates: those of the method that an expert touches.
    """

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        self.shape = load_config(options.base).shape
        self.experts = load_experts(options.experts, self.shape)
        self.rule = serving_rule(options.method, options.used_top_k, options.temperature)
        modules = METHODS[options.method].modules
        self.keys = [key for key in self.experts.touched if key[1] in modules]
        if not self.keys:
            raise ConfigError(
                f"No expert touches a projection that {options.method} routes: "
                f"{', '.join(module.name for module in modules)}. Choose another method.",
                param="method",
            )
        self.tokenizer = AutoTokenizer.from_pretrained(options.base, local_files_only=True)

    def read(
        self, path: Path | None, *, learns_prompts: bool = False
    ) -> list[tuple[Example, Encoded]]:
        """The examples of a file, each with its tokens; none without a file."""
        if path is None:
            return []
        index = {name: expert for expert, name in enumerate(self.experts.names)}
        return [
            (each, encode(self.tokenizer, each, index, learns_prompts=learns_prompts))
            for each in read_examples(path, index)
        ]

    def routed_model(self, dtype: torch.dtype, rule: RoutingRule, gates: Gates) -> RoutedModel:
        base = self.options.base
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
        return RoutedModel(model.eval(), self.experts, rule, gates)  # served without dropout


def _train(run: _Run, examples: list[Encoded], watcher: Watcher) -> None:
    """Learn gates and write them. At first all are 0, so no expert is preferred."""
    options, num_experts = run.options, len(run.experts)
    untrained = {
        (layer, module): torch.zeros(num_experts, run.shape.in_features(module))
        for layer, module in run.keys
    }
    rule = training_rule(options.method, run.rule, num_experts)
    model = run.routed_model(getattr(torch, options.dtype.value), rule, untrained)
    described = provenance(options) | {
        "method": options.method.value,
        "experts": list(run.experts.digests),
        "top_k": run.rule.top_k,
        "temperature": run.rule.temperature,
    }
    fit(
        model,
        batches(examples, options.tokens_per_step, options.seed),
        options.recipe,
        run.rule,
        options.out / CHECKPOINT_NAME,
        described,
        resumes=options.resumes,
        on_step=watcher.on_step,
    )
    write_gates(options.out, model.named_gates)


def _evaluate(run: _Run, held_out: list[tuple[Example, Encoded]], watcher: Watcher) -> Evaluation:
    """With the gates as a server has them: trained ones rounded to the dtype of their file."""
    if METHODS[run.options.method].is_trained:
        stored = load_file(run.options.out / WEIGHTS_NAME)
        gates = {key: stored[gate_name(*key)].float() for key in run.keys}
    else:
        gates = prototype_gates(run.experts, run.shape, run.keys)
    model = run.routed_model(torch.float32, run.rule, gates)
    examples, encoded = zip(*held_out, strict=True)
    return evaluate(model, run.tokenizer, run.experts.names, examples, encoded, watcher.on_part)
