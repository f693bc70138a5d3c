"""What a checkpoint becomes: low-rank deltas, by layer and projection.

Owns: `Delta` and `AdapterDeltas`.
Does not know: the format they came from, nor where they will lie on a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from motet.adapters.digest import StoredPair
from motet.adapters.widening import to_float32
from motet.core.shape import Module


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """What an adapter adds to one projection: y += b @ (a @ x).

    The factors are widened each time they are asked for: an adapter of hundreds of them is never
    in memory twice.

    Attributes:
        stored: the factors as the checkpoint stores them.
    """

    stored: StoredPair

    @property
    def a(self) -> Tensor:
        """float32 [rank, in_features], on the CPU."""
        return to_float32(self.stored.a)

    @property
    def b(self) -> Tensor:
        """float32 [out_features, rank], on the CPU, with the adapter's scaling folded in."""
        return to_float32(self.stored.b, self.stored.scaling)

    @property
    def rank(self) -> int:
        return self.stored.rank

    @property
    def num_parameters(self) -> int:
        return self.stored.a.numel() + self.stored.b.numel()


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
