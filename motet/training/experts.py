"""The adapters that a router chooses among.

Owns: their order, names and digests, and their factors side by side, projection by projection.
Does not know: gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from motet.adapters.delta import AdapterDeltas
from motet.adapters.peft_lora import load_adapter
from motet.core.errors import AdapterError, ConfigError
from motet.core.shape import ModelShape, Module


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """The factors of all experts in one projection, each expert's ranks in a row.

    Attributes:
        a: float32 [sum of ranks, in_features].
        b: float32 [out_features, sum of ranks], scalings folded in.
        owners: float32 [num_experts, sum of ranks]: 1 where the rank is the expert's.
    """

    a: Tensor
    b: Tensor
    owners: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """The experts of a router, in the order of its gates."""

    names: tuple[str, ...]
    deltas: tuple[AdapterDeltas, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(each.digest for each in self.deltas)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def touched(self) -> list[tuple[int, Module]]:
        """The projections that at least one expert touches, in order of layer and module."""
        return sorted({key for each in self.deltas for key in each.deltas})

    def bank(self, layer: int, module: Module) -> Bank:
        """The experts side by side in a projection that is touched."""
        found = [
            (expert, each.deltas[layer, module])
            for expert, each in enumerate(self.deltas)
            if (layer, module) in each.deltas
        ]
        ranks = torch.tensor([delta.rank for _, delta in found])
        owner_of = torch.tensor([expert for expert, _ in found]).repeat_interleave(ranks)
        return Bank(
            a=torch.cat([delta.a for _, delta in found]),
            b=torch.cat([delta.b for _, delta in found], dim=1),
            owners=torch.nn.functional.one_hot(owner_of, len(self)).T.float(),
        )


def load_experts(directories: Sequence[Path], shape: ModelShape) -> Experts:
    """Read adapters; an expert's name is that of its directory.

    Raises:
        AdapterError: one cannot be read, or is for another base model; the message names it.
        ConfigError: fewer than two, or two of the same name.
    """
    names = [directory.resolve().name for directory in directories]
    if len(names) < 2:
        raise ConfigError(
            f"--experts names {len(names)} adapter; a router chooses among at least 2. Give their "
            "directories, separated by commas.",
            param="experts",
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"--experts has two directories named {twice[0]!r}. The name of the directory is the "
            "expert's; rename one of them.",
            param="experts",
        )
    return Experts(tuple(names), tuple(_load(path, shape) for path in directories))


def _load(directory: Path, shape: ModelShape) -> AdapterDeltas:
    try:
        return load_adapter(directory, shape)
    except AdapterError as error:
        raise AdapterError(f"Expert {directory.name}: {error.message}", code=error.code) from error
