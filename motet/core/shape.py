"""The shape of a decoder, and the names of the projections that an adapter may touch.

Owns: `ModelShape`, the order of projections (`MODULES`) and their sibling groups.
Does not know: how a shape is read from a checkpoint (`models/config.py`).
"""

from enum import IntEnum

import msgspec


class Module(IntEnum):
    """A linear projection of a decoder layer. The value is its column in the device tables."""

    Q = 0
    K = 1
    V = 2
    O = 3  # noqa: E741 - the projection's usual name
    GATE = 4
    UP = 5
    DOWN = 6


MODULES = tuple(Module)
NUM_MODULES = len(MODULES)

# Projections that read the same input, and so are multiplied in one launch.
QKV = (Module.Q, Module.K, Module.V)
GATE_UP = (Module.GATE, Module.UP)


class ModelShape(msgspec.Struct, frozen=True):
    """The sizes of a decoder that pool, adapters and kernels must agree on."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def in_features(self, module: Module) -> int:
        """Length of one row of A for this projection."""
        match module:
            case Module.O:
                return self.q_size
            case Module.DOWN:
                return self.intermediate_size
            case _:
                return self.hidden_size

    def out_features(self, module: Module) -> int:
        """Length of one column of B for this projection."""
        match module:
            case Module.Q:
                return self.q_size
            case Module.K | Module.V:
                return self.kv_size
            case Module.GATE | Module.UP:
                return self.intermediate_size
            case _:
                return self.hidden_size

    @property
    def longest_row(self) -> int:
        """Elements of the longest rank row: a page must hold at least one."""
        return max(max(self.in_features(m), self.out_features(m)) for m in MODULES)

    @property
    def shortest_row(self) -> int:
        """Elements of the shortest rank row: it bounds how many rows a page can hold."""
        return min(min(self.in_features(m), self.out_features(m)) for m in MODULES)
