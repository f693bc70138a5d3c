"""What a training run is asked to do, and what follows from that.

Owns: `TrainingOptions`, their limits, and the recipe of a run.
Does not know: tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from motet.core.errors import ConfigError
from motet.training.methods import METHODS, Method

DEFAULT_STEPS = 240
TOLD_SHARE = 0.25
PEAK_RATE = 4e-3
TOKENS_PER_STEP = 1024
DEFAULT_LABEL_WEIGHT = 1.0
DEFAULT_BALANCE = 0.01
DEFAULT_ENTROPY = -0.01


class Dtype(StrEnum):
    """What base and experts are computed in while gates learn; gates are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and by which losses gates learn.

    Attributes:
        num_told_steps: at first the label alone teaches each gate, while tokens get the expert of
            their label, so that every gate sees what a right choice in the layers below makes.
            Nothing has to flow back through the model for that, so these steps are cheap.
        num_steps: those included.
        peak_rate: the learning rate after its warm-up; a cosine brings it down.
        label_weight: of the label loss beside the language model's.
        balance, entropy: see `losses.balance_loss`.
    """

    num_told_steps: int
    num_steps: int
    peak_rate: float
    label_weight: float
    balance: float
    entropy: float


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """One run of `motet train-router`.

    Attributes:
        experts: directories of the adapters, in the order that the gates will have.
        data, held_out: JSONL files; see `examples.py`. Nothing is evaluated without the second.
        out: directory of the result, made if need be.
        base: directory of the base model.
        base_name: what the result calls it.
        top_k: None is the method's.
        temperature: the router is trained and served with it.
        steps: training steps. Methods that are not trained take none.
        tokens_per_step: prompts and replies in a batch, at most.
        label_weight: of the label loss; only methods that have one read it.
        balance, entropy: of LoRA-Mixer's loss; see `losses.balance_loss`.
        learns_prompts: users' messages are to be predicted too, not replies alone.
        resumes: go on from the checkpoint in `out`, which is there until the run has ended.
    """

    method: Method
    experts: tuple[Path, ...]
    data: Path | None
    held_out: Path | None
    out: Path
    base: Path
    base_name: str
    top_k: int | None = None
    temperature: float = 1.0
    steps: int = DEFAULT_STEPS
    tokens_per_step: int = TOKENS_PER_STEP
    label_weight: float = DEFAULT_LABEL_WEIGHT
    balance: float = DEFAULT_BALANCE
    entropy: float = DEFAULT_ENTROPY
    learns_prompts: bool = False
    dtype: Dtype = Dtype.FLOAT32
    seed: int = 0
    resumes: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for what contradicts itself."""
        facts = METHODS[self.method]
        if facts.is_trained and self.data is None:
            raise ConfigError(f"{self.method} is trained, so it needs --data.", param="data")
        if not facts.is_trained and (self.data is not None or self.resumes):
            raise ConfigError(
                f"{self.method} is not trained: its gates follow from the experts. Leave --data "
                "and --resume out.",
                param="data",
            )
        if not 1 <= self.used_top_k <= len(self.experts):
            raise ConfigError(
                f"--top-k is {self.used_top_k}; expected 1 to {len(self.experts)}, the number of "
                "experts.",
                param="top_k",
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(
                f"--temperature is {self.temperature}; expected a number above 0.",
                param="temperature",
            )

    @property
    def recipe(self) -> Recipe:
        facts = METHODS[self.method]
        label_weight = self.label_weight if facts.has_labels else 0.0
        return Recipe(
            num_told_steps=round(TOLD_SHARE * self.steps) if label_weight else 0,
            num_steps=self.steps if facts.is_trained else 0,
            peak_rate=PEAK_RATE,
            label_weight=label_weight,
            balance=self.balance if facts.is_soft_in_training else 0.0,
            entropy=self.entropy if facts.is_soft_in_training else 0.0,
        )

    @property
    def used_top_k(self) -> int:
        return METHODS[self.method].top_k if self.top_k is None else self.top_k
