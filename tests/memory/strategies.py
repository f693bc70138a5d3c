"""Random decoder shapes and adapters for the memory tests.

Owns: Hypothesis strategies, and the reading of an adapter back through the device tables.
Does not know: the layout code that it is used against.
"""

import torch
from hypothesis import strategies as st
from torch import Tensor

from motet.core.shape import MODULES, ModelShape, Module
from motet.kernels.types import LoraTables
from motet.memory.geometry import PageGeometry, smallest_page_size

Ranks = dict[tuple[int, Module], int]
Deltas = dict[tuple[int, Module], tuple[Tensor, Tensor]]


@st.composite
def model_shapes(draw: st.DrawFn) -> ModelShape:
    """Shapes with and without GQA, wide and narrow MLPs, hidden size unlike the query size."""
    num_kv_heads = draw(st.integers(1, 4))
    return ModelShape(
        num_layers=draw(st.integers(1, 3)),
        hidden_size=draw(st.integers(1, 96)),
        intermediate_size=draw(st.integers(1, 300)),
        num_heads=num_kv_heads * draw(st.integers(1, 4)),
        num_kv_heads=num_kv_heads,
        head_dim=draw(st.sampled_from([1, 2, 8, 16])),
        vocab_size=11,
    )


@st.composite
def geometries(draw: st.DrawFn) -> PageGeometry:
    shape = draw(model_shapes())
    return PageGeometry(shape, smallest_page_size(shape) * draw(st.sampled_from([1, 2])))


@st.composite
def adapter_ranks(draw: st.DrawFn, shape: ModelShape, min_size: int = 0) -> Ranks:
    """A rank of its own for any subset of layers and modules."""
    keys = st.tuples(st.integers(0, shape.num_layers - 1), st.sampled_from(MODULES))
    return draw(st.dictionaries(keys, st.integers(1, 40), min_size=min_size))


def random_deltas(shape: ModelShape, ranks: Ranks, seed: int) -> Deltas:
    """A [rank, in_features] and B [out_features, rank] in float32, no element zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.rand(size, generator=generator) + 0.5

    return {
        (layer, module): (
            draw(rank, shape.in_features(module)),
            draw(shape.out_features(module), rank),
        )
        for (layer, module), rank in ranks.items()
    }


def read_delta(
    data: Tensor, tables: LoraTables, slot: int, layer: int, module: Module, shape: ModelShape
) -> tuple[Tensor, Tensor]:
    """A and B of one projection, found as a kernel finds them: through the tables alone."""
    flat = data.view(-1)
    rank = int(tables.ranks[slot, layer, module])

    def rows(is_b: int, length: int) -> Tensor:
        first = int(tables.run_starts[slot, layer, module, is_b])
        offsets = tables.row_offsets[first : first + rank].tolist()
        found = [flat[offset : offset + length] for offset in offsets]
        return torch.stack(found) if found else flat.new_zeros(0, length)

    return rows(0, shape.in_features(module)), rows(1, shape.out_features(module)).T
