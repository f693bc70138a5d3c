"""What a checkpoint becomes: low-rank deltas, by layer and projection.

Owns: `Delta` and `AdapterDeltas`.
Does not know: the format they came from, nor where they will lie on a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from motet.core.shape import Module


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """What an adapter adds to one projection: y += b @ (a @ x).

    Attributes:
        a: float32 [rank, in_features], on the CPU.
        b: float32 [out_features, rank], on the CPU, with the adapter's scaling folded in.
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def num_parameters(self) -> int:
        return self.a.numel() + self.b.numel()


@dataclass(frozen=True, slots=True, eq=False)
class AdapterDeltas:
    """A whole adapter, checked against the shape of its base.

    Attributes:
        digest: its identity, 64 hexadecimal characters; see `adapters/digest.py`.
        deltas: by (layer, module), in that order; an untouched projection has no entry.
        base_model_name: the base that the checkpoint says it was trained on. It is for people:
            nothing is decided by it.
    """

    digest: str
    deltas: Mapping[tuple[int, Module], Delta]
    base_model_name: str | None

    @property
    def max_rank(self) -> int:
        return max(delta.rank for delta in self.deltas.values())

    @property
    def modules(self) -> tuple[Module, ...]:
        """The projections that are touched in at least one layer."""
        return tuple(sorted({module for _, module in self.deltas}))

    @property
    def num_parameters(self) -> int:
        return sum(delta.num_parameters for delta in self.deltas.values())

    def rank(self, layer: int, module: Module) -> int:
        """Rank rows of this projection; 0 where the adapter does not touch it."""
        delta = self.deltas.get((layer, module))
        return 0 if delta is None else delta.rank
