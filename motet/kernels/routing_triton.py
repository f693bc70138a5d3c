"""Routed shrink of a GPU, in Triton: gates, choices and experts without a wait for the device.

Owns: the way that a batch takes through the kernels (`routing_triton_kernels.py`), and its choice.
Does not know: how rank rows are multiplied (`lora_triton.py`).

The gates of all siblings are one shrink; a program for each token makes weights of its products.
Then the experts come in one of three layouts. In a stack (`routing_triton_stack.py`) all experts of
a set are multiplied with all of its tokens, and what was not chosen gets a weight of 0: shapes are
fixed, and there is one expand whatever the number of choices. Gathered or grouped
(`routing_triton_pairs.py`), a token meets only the experts that it chose.
"""

from dataclasses import replace
from enum import Enum, auto

import torch
import triton
from torch import Tensor

from motet.kernels import lora_triton
from motet.kernels import routing_triton_kernels as kernels
from motet.kernels.lora_triton_tiles import power_of_two
from motet.kernels.routing_triton_pairs import (
    Choices,
    empty_choices,
    gathered_pairs,
    grouped_pairs,
)
from motet.kernels.routing_triton_stack import (
    Stack,
    StackPairs,
    most_rows,
    stack,
    stacked,
)
from motet.kernels.types import LoraPairs, LoraTables, Projection, RoutedTokens, Rule

MAX_STACK_ROWS = 512
"""Most rank rows of a set of which all are multiplied with every token."""
MIN_GROUP = 4
"""Least mean number of choices of an expert for which they are sorted. Estimated, not measured."""
_COLUMN_BLOCK = 256
_WARP_GATES = 128
"""Gates of all siblings up to which one warp does them."""


class Layout(Enum):
    """How a token meets its experts."""

    STACKED = auto()
    GROUPED = auto()
    GATHERED = auto()


def layout_of(num_choices: int, num_experts: int, rows: int) -> Layout:
    """The layout for a batch, from what the host knows of it.

    A set of few rows is read whole as soon as its tokens choose about as often as it has experts:
    then most of them are read anyway, and with static shapes and one expand nothing is faster. A
    larger one would cost more arithmetic than its choices; they are sorted once an expert is chosen
    several times, for its rows to be read once for all of these.

    Args:
        num_choices: most choices of all tokens in one projection.
        num_experts: of all sets of the batch.
        rows: rank rows of all experts of a set in one projection.
    """
    if rows <= MAX_STACK_ROWS and num_choices >= num_experts:
        return Layout.STACKED
    return Layout.GROUPED if num_choices >= MIN_GROUP * num_experts else Layout.GATHERED


def shrink_routed(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    routed: RoutedTokens,
    layer: int,
    projections: tuple[Projection, ...],
) -> tuple[Tensor, LoraPairs]:
    """See `types.Kernels.shrink_routed`; v and pairs are for `expand` of this module.

    Args:
        x, pool: as for `lora_triton.shrink`.
    """
    _check(routed)
    if routed.gates.num_pairs == 0:
        return lora_triton.shrink(x, pool, tables, routed.gates, layer, projections), routed.gates
    num_choices = routed.gates.num_pairs * routed.max_choices
    layout = layout_of(num_choices, routed.expert_slots.numel(), most_rows(routed))
    return shrink_in(layout, x, pool, tables, routed, layer, projections)


def shrink_in(
    layout: Layout,
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    routed: RoutedTokens,
    layer: int,
    projections: tuple[Projection, ...],
) -> tuple[Tensor, LoraPairs]:
    """`shrink_routed` of at least one token in this layout."""
    if layout is Layout.STACKED:
        return _shrink_stack(x, pool, tables, routed, layer, projections)
    rows = stack(tables, routed, layer, projections, with_experts=False)
    products = _multiply(x, pool, rows, routed)
    choices = empty_choices(routed, len(projections))
    weights = _weigh_gates(products, pool, rows, routed, choices)
    order = None
    if layout is Layout.GATHERED:
        pairs = gathered_pairs(choices, routed)
    else:
        pairs, order = grouped_pairs(choices, routed, len(projections))
    v = lora_triton.shrink(x, pool, tables, pairs, layer, projections)
    _weigh_ranks(v, routed, weights, order)
    return v, pairs


def expand(
    v: Tensor,
    pool: Tensor,
    tables: LoraTables,
    pairs: LoraPairs,
    layer: int,
    projections: tuple[Projection, ...],
    y: Tensor,
) -> None:
    """`lora_triton.expand` of any pairs, those of a stack among them."""
    if isinstance(pairs, StackPairs):
        tables, layer, projections = pairs.tables, 0, stacked(projections)
    lora_triton.expand(v, pool, tables, pairs, layer, projections, y)


def _shrink_stack(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    routed: RoutedTokens,
    layer: int,
    projections: tuple[Projection, ...],
) -> tuple[Tensor, StackPairs]:
    """The products with all experts, weighted; and pairs of weight 1."""
    rows = stack(tables, routed, layer, projections, with_experts=True)
    products = _multiply(x, pool, rows, routed)
    weights = _weigh_gates(products, pool, rows, routed, None)
    num_parts, num_tokens, num_siblings, width = products.shape
    v = torch.empty((1, *products.shape[1:]), dtype=torch.float32, device=x.device)
    block = min(power_of_two(width, 16), _COLUMN_BLOCK)
    kernels.weigh_stack[(num_tokens * num_siblings, triton.cdiv(width, block))](
        products,
        v,
        routed.sets,
        routed.rules,
        rows.b_tables.ranks,
        rows.owners,
        weights,
        num_tokens,
        weights.shape[2],
        width,
        NUM_SIBLINGS=num_siblings,
        NUM_PARTS=num_parts,
        BLOCK_J=block,
    )
    gates = routed.gates
    pairs = StackPairs(
        tokens=gates.tokens,
        slots=routed.sets,
        weights=torch.ones_like(gates.weights),
        segment_starts=gates.segment_starts,
        max_rank=width,
        tables=rows.b_tables,
    )
    return v, pairs


def _multiply(x: Tensor, pool: Tensor, rows: Stack, routed: RoutedTokens) -> Tensor:
    """Of each token with the rows of its set's stack: [num_parts, num_tokens, siblings, width]."""
    pairs = replace(routed.gates, slots=routed.sets, max_rank=rows.width)
    return lora_triton.shrink(x, pool, rows.tables, pairs, 0, rows.projections)


def _weigh_gates(
    products: Tensor, pool: Tensor, rows: Stack, routed: RoutedTokens, choices: Choices | None
) -> Tensor:
    """The weights of all gates, float32 [num_tokens, num_siblings, most_gates]; `usage` grows."""
    num_parts, num_tokens, num_siblings, width = products.shape
    most_gates = routed.usage.shape[1]
    weights = torch.empty(
        (num_tokens, num_siblings, most_gates), dtype=torch.float32, device=products.device
    )
    block_s, block_g = power_of_two(num_siblings, 1), power_of_two(max(most_gates, 1), 16)
    kernels.weigh_gates[(num_tokens,)](
        products,
        pool,
        rows.tables.row_offsets,
        rows.gates,
        routed.sets,
        routed.expert_slots,
        routed.rules,
        routed.inverse_temperatures,
        routed.thresholds,
        routed.usage,
        weights,
        None if choices is None else choices.slots,
        None if choices is None else choices.weights,
        None if choices is None else choices.masks,
        None if choices is None else choices.keys,
        num_tokens,
        *routed.expert_slots.shape,
        most_gates,
        routed.max_choices,
        width,
        NUM_SIBLINGS=num_siblings,
        NUM_PARTS=num_parts,
        BLOCK_S=block_s,
        BLOCK_G=block_g,
        num_warps=1 if block_s * block_g <= _WARP_GATES else 4,
    )
    return weights


def _weigh_ranks(v: Tensor, routed: RoutedTokens, weights: Tensor, order: Tensor | None) -> None:
    """The weights of ranks onto v, where a set gates ranks; see `kernels.weigh_ranks`."""
    num_parts, num_pairs, num_siblings, max_rank = v.shape
    num_tokens, _, most_gates = weights.shape
    if max_rank == 0:
        return
    kernels.weigh_ranks[(num_tokens * num_siblings,)](
        v,
        routed.sets,
        routed.rules,
        weights,
        order,
        num_tokens,
        num_pairs,
        most_gates,
        max_rank,
        NUM_SIBLINGS=num_siblings,
        NUM_PARTS=num_parts,
        BLOCK_J=power_of_two(max_rank, 16),
    )


def _check(routed: RoutedTokens) -> None:
    """What the kernels rely on, beside what `lora_triton` checks of the pairs."""
    gates, num_sets = routed.gates, routed.expert_slots.shape[0]
    assert len(gates.rounds) == 1, "a token has one router; expected gates of one round"
    assert gates.siblings is None, "a router is for all projections; expected no siblings in gates"
    for name in ("sets", "expert_slots", "rules"):
        tensor = getattr(routed, name)
        assert tensor.dtype == torch.int32, f"{name} is {tensor.dtype}, expected int32"
        assert tensor.is_contiguous(), f"{name} must be contiguous"
    for name in ("inverse_temperatures", "thresholds", "usage"):
        tensor = getattr(routed, name)
        assert tensor.dtype == torch.float32, f"{name} is {tensor.dtype}, expected float32"
        assert tensor.is_contiguous(), f"{name} must be contiguous"
    assert routed.sets.shape == gates.slots.shape, "expected a set for each pair of the gates"
    assert routed.rules.shape == (num_sets, len(Rule)), "expected a row of rules for each set"
    assert routed.usage.shape[0] == gates.num_pairs, "expected a row of usage for each token"
