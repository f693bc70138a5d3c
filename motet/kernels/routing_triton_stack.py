"""Rank rows of a routed set one above the other, as if they were one adapter's.

Owns: the tables of such stacks.
Does not know: what the weights of gates are, nor which sets a stack is worth its bytes for.

The gates of a set, and if wanted the rows of all its experts with them, are one adapter to
`shrink`: one launch, and tiles as large as the set's tokens fill. Experts come before the gates, so
that their columns of B, in the same order, meet the first columns of v. True ranks, no gaps: what
is stacked are the offsets of rows, eight bytes each.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from motet.kernels import routing_triton_kernels as kernels
from motet.kernels.lora_triton_tiles import power_of_two, projection_table
from motet.kernels.types import LoraPairs, LoraTables, Projection, RoutedTokens

_SET_BLOCK = 1024
"""Tokens at a time of those that a set's router is looked for in."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack for each set and sibling projection.

    A set whose gates are its expert's own ranks (the score `SELF`) always has that expert's rows.

    Attributes:
        tables: of the stacks, for shrink: set for slot, one layer, the siblings for modules. Right
            above a stack whose gates have biases is the offset of the row of these.
        b_tables: likewise for expand; without the gates.
        owners: int32 [num_sets, num_siblings, width]. Expert of each row of a stack.
        gates: int32 [num_sets, num_siblings, 2]. First row of the gates, and their number.
        projections: the siblings with their modules in these tables.
        width: at least the rows of any stack, biases included.
    """

    tables: LoraTables
    b_tables: LoraTables
    owners: Tensor
    gates: Tensor
    projections: tuple[Projection, ...]
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPairs(LoraPairs):
    """Pairs of tokens with the stacks of their sets.

    Attributes:
        tables: where the stacks' columns of B are; they take the place of the pool's tables.
    """

    tables: LoraTables


def most_rows(routed: RoutedTokens) -> int:
    """At least the rank rows of all experts of any set in one projection."""
    return routed.expert_slots.shape[1] * routed.max_rank


def stack(
    tables: LoraTables,
    routed: RoutedTokens,
    layer: int,
    projections: tuple[Projection, ...],
    *,
    with_experts: bool,
) -> Stack:
    """The stacks of all sets of a batch, in one launch.

    Args:
        with_experts: whether all experts are in it, or gates alone.
    """
    device = tables.ranks.device
    num_sets, most_experts = routed.expert_slots.shape
    num_siblings = len(projections)
    # A set that is its own router has as many rows as gates.
    num_rows = max(routed.gates.max_rank, routed.usage.shape[1])
    if with_experts:
        num_rows += most_rows(routed)
    width = triton.cdiv(num_rows, 16) * 16  # a round number: v is read in wide pieces

    def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    rows = ints(num_sets * num_siblings * 2 * width, dtype=torch.int64)
    starts = ints(num_sets, 1, num_siblings, 2)
    a_heights, b_heights = ints(2, num_sets, 1, num_siblings).unbind()
    owners, gates = ints(num_sets, num_siblings, width), ints(num_sets, num_siblings, 2)
    _, num_layers, num_modules = tables.ranks.shape
    num_stacked = most_experts if with_experts else 1
    kernels.stack_rows[(num_sets * num_siblings, num_stacked + 1)](
        tables.row_offsets,
        tables.run_starts,
        tables.ranks,
        routed.sets,
        routed.gates.slots,
        routed.expert_slots,
        routed.rules,
        projection_table(projections, device),
        rows,
        starts,
        a_heights,
        b_heights,
        owners,
        gates,
        layer,
        num_layers,
        num_modules,
        routed.gates.num_pairs,
        most_experts,
        width,
        NUM_SIBLINGS=num_siblings,
        WITH_EXPERTS=with_experts,
        BLOCK_E=power_of_two(num_stacked, 16),
        BLOCK_J=power_of_two(max(routed.gates.max_rank, routed.max_rank, 1), 16),
        BLOCK_N=min(power_of_two(routed.gates.num_pairs, 16), _SET_BLOCK),
    )
    return Stack(
        tables=LoraTables(rows, starts, a_heights),
        b_tables=LoraTables(rows, starts, b_heights),
        owners=owners,
        gates=gates,
        projections=stacked(projections),
        width=width,
    )


def stacked(projections: tuple[Projection, ...]) -> tuple[Projection, ...]:
    """The siblings as a stack's tables have them."""
    return tuple(each._replace(module=s) for s, each in enumerate(projections))
