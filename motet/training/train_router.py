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

from motet.core.routing import RoutingRule
from motet.core.shape import ModelShape, Module
from motet.models.config import load_config
from motet.training.arrow import prototype_gates
from motet.training.card import write_card
from motet.training.checkpoint import CHECKPOINT_NAME
from motet.training.encoding import Encoded, batches, encode
from motet.training.evaluate import Evaluation, evaluate
from motet.training.examples import read_examples
from motet.training.experts import Experts, load_experts
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
    shape = load_config(options.base).shape
    experts = load_experts(options.experts, shape)
    index = {name: expert for expert, name in enumerate(experts.names)}
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    # All input is read before the first step: a mistake in it should not cost an hour.
    held_out = read_examples(options.held_out, index) if options.held_out else []
    train = read_examples(options.data, index) if options.data else []
    rule = serving_rule(options.method, options.used_top_k, options.temperature)
    options.out.mkdir(parents=True, exist_ok=True)
    if train:
        model = _untrained(options, shape, experts, rule)
        to_learn = [
            encode(tokenizer, example, index, learns_prompts=options.learns_prompts)
            for example in train
        ]
        _train(options, model, to_learn, rule, experts, watcher)
        write_gates(options.out, model.named_gates)
    gates = _served_gates(options, shape, experts)
    measured = None
    if held_out:
        model = _routed_model(options.base, torch.float32, experts, rule, gates)
        encoded = [encode(tokenizer, example, index) for example in held_out]
        measured = evaluate(model, tokenizer, experts.names, held_out, encoded, watcher.on_part)
    write_config(
        options.out,
        method=options.method,
        rule=rule,
        base_name=options.base_name,
        shape=shape,
        experts=experts,
        provenance=provenance(options),
        evaluation={} if measured is None else msgspec.to_builtins(measured),
    )
    write_card(options, experts, measured)
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


def _untrained(
    options: TrainingOptions, shape: ModelShape, experts: Experts, rule: RoutingRule
) -> RoutedModel:
    """All gates are 0, so at first no expert is preferred."""
    gates = {
        (layer, module): torch.zeros(len(experts), shape.in_features(module))
        for layer in range(shape.num_layers)
        for module in METHODS[options.method].modules
    }
    trained_by = training_rule(options.method, rule, len(experts))
    dtype = getattr(torch, options.dtype.value)
    return _routed_model(options.base, dtype, experts, trained_by, gates)


def _routed_model(
    base: Path, dtype: torch.dtype, experts: Experts, rule: RoutingRule, gates: Gates
) -> RoutedModel:
    # No dropout: the experts are what is served.
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True).eval()
    return RoutedModel(model, experts, rule, gates)


def _train(
    options: TrainingOptions,
    model: RoutedModel,
    examples: list[Encoded],
    rule: RoutingRule,
    experts: Experts,
    watcher: Watcher,
) -> None:
    run = provenance(options) | {
        "method": options.method.value,
        "experts": list(experts.digests),
        "top_k": rule.top_k,
        "temperature": rule.temperature,
    }
    fit(
        model,
        batches(examples, options.tokens_per_step, options.seed),
        options.recipe,
        rule,
        options.out / CHECKPOINT_NAME,
        run,
        resumes=options.resumes,
        on_step=watcher.on_step,
    )


def _served_gates(options: TrainingOptions, shape: ModelShape, experts: Experts) -> Gates:
    """The gates as a server has them: trained ones rounded to the dtype of their file."""
    modules = METHODS[options.method].modules
    if not METHODS[options.method].is_trained:
        return prototype_gates(experts, shape, modules)
    stored = load_file(options.out / WEIGHTS_NAME)
    return {
        (layer, module): stored[gate_name(layer, module)].float()
        for layer in range(shape.num_layers)
        for module in modules
    }
