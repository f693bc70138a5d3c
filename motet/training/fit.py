"""The training loop: only gates change.

Owns: the order of a step, and the schedule of the learning rate.
Does not know: files of routers, how good the result is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from motet.core.routing import RoutingRule
from motet.training.checkpoint import restore_checkpoint, save_checkpoint
from motet.training.encoding import NO_LABEL, Batch
from motet.training.losses import balance_loss, label_loss
from motet.training.options import Recipe
from motet.training.routed_model import RoutedModel

STEPS_BETWEEN_CHECKPOINTS = 20
WARMUP_STEPS = 5
LAST_SHARE_OF_RATE = 0.05
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class StepLosses:
    """What one step measured before it changed the gates; 0 where a loss is not used."""

    answer: float
    label: float
    balance: float


def fit(
    model: RoutedModel,
    stream: Iterator[Batch],
    recipe: Recipe,
    served: RoutingRule,
    checkpoint: Path,
    run: dict[str, object],
    *,
    resumes: bool,
    on_step: Callable[[int, StepLosses], None],
) -> None:
    """Train the gates of `model` in place.

    Args:
        stream: batches from the first step on, whether the run is resumed or not.
        served: the rule that the router will be served by.
        checkpoint: file to write now and then, and to go on from if `resumes`.
        run: describes the run; a checkpoint of another is refused.
        on_step: called with the number of steps done.

    Raises:
        ConfigError: there is no checkpoint of this run to go on from.
    """
    parameters = model.named_gates
    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.peak_rate, weight_decay=0.0)
    done = restore_checkpoint(checkpoint, parameters, optimizer, run) if resumes else 0
    for step, batch in enumerate(islice(stream, done, recipe.num_steps), start=done):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        if step < recipe.num_told_steps:
            loss, losses = _told_loss(model, batch)
        else:
            loss, losses = _free_loss(model, batch, recipe, served)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % STEPS_BETWEEN_CHECKPOINTS == 0 or step + 1 == recipe.num_steps:
            save_checkpoint(checkpoint, parameters, optimizer, step + 1, run)
        on_step(step + 1, losses)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Of the step with this index: a short warm-up, then a cosine to a twentieth of the peak."""
    progress = step / max(1, recipe.num_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return recipe.peak_rate * warm * (LAST_SHARE_OF_RATE + (1 - LAST_SHARE_OF_RATE) * cosine)


def _told_loss(model: RoutedModel, batch: Batch) -> tuple[Tensor, StepLosses]:
    with model.told_locally(batch.labels), model.recording() as products:
        model.hidden_states(batch)
    loss = label_loss(products, batch.labels)
    return loss, StepLosses(0.0, loss.item(), 0.0)


def _free_loss(
    model: RoutedModel, batch: Batch, recipe: Recipe, served: RoutingRule
) -> tuple[Tensor, StepLosses]:
    """Tokens get what the gates choose, and the loss of the answers flows back to the gates."""
    with model.recording() as products:
        hidden = model.hidden_states(batch)
    is_target = batch.targets[0] != NO_LABEL
    logits = model.logits(hidden[0, is_target])
    answer = cross_entropy(logits.float(), batch.targets[0, is_target])
    label, balanced = answer.new_zeros(()), answer.new_zeros(())
    if recipe.label_weight:
        label = label_loss(products, batch.labels)
    if recipe.balance or recipe.entropy:
        balanced = balance_loss(products, served, recipe.balance, recipe.entropy)
    losses = StepLosses(answer.item(), label.item(), balanced.item())
    return answer + recipe.label_weight * label + balanced, losses
