"""Routed shrink on a CPU: gates by the LoRA kernels, choices by compiled loops, then the experts.

Owns: the memory that choices and pairs are written to, and the checks of what the loops take.
Does not know: what a rule means (`gating_cpu_loops.py`), nor how pairs are laid out
(`routing_cpu_loops.py`).

The gates of all siblings are one shrink, the experts that were chosen are another, over pairs of
one projection each. A step that runs its layers as one compiled call does the same within it.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from motet.kernels import gating_cpu_loops, lora_cpu
from motet.kernels import routing_cpu_loops as loops
from motet.kernels.lora_cpu import check_tables, pair_addresses, sibling_addresses, table_addresses
from motet.kernels.types import LoraPairs, LoraTables, Projection, Round, RoutedTokens, Rule


def shrink_routed(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    routed: RoutedTokens,
    layer: int,
    projections: tuple[Projection, ...],
) -> tuple[Tensor, LoraPairs]:
    """See `types.Kernels.shrink_routed`. A pair is for one projection.

    Args:
        x: [num_tokens, in_features] in the pool's dtype, columns adjacent.
        pool: as for `lora_cpu.shrink`.
        routed: as there.

    Returns:
        v, float32 [1, num_pairs, len(projections), max_rank], and the pairs.
    """
    check_routed(tables, routed)
    gates, num_threads = routed.gates, torch.get_num_threads()
    choices = RoutedPairs.room(routed, len(projections))
    products = lora_cpu.shrink(x, pool, tables, gates, layer, projections)[0]
    _add_biases(products, pool, tables, routed, layer, projections)
    gating = (
        table_addresses(tables, layer),
        pair_addresses(gates, loops.NO_LIMIT),
        sibling_addresses(projections),
        set_addresses(routed),
        (routed.usage.data_ptr(), routed.usage.shape[1]),
        (products.data_ptr(), products.stride(0), products.stride(1)),
        most_gates(routed),
    )
    _, of_gates, siblings, sets, *_ = gating
    gating_cpu_loops.choose(gating, choices.choice_addresses, num_threads)
    laid = choices.laid_addresses
    num_segments = loops.lay_out(of_gates, siblings, sets, choices.choice_addresses, laid)
    pairs = choices.pairs(num_segments, routed.max_rank)
    v = lora_cpu.shrink(x, pool, tables, pairs, layer, projections)
    partial = (v.data_ptr(), v.stride(1), v.stride(2))
    gating_cpu_loops.gate_ranks(gating, laid[5], pairs.num_pairs, partial, num_threads)
    return v, pairs


@dataclass(frozen=True, slots=True)
class RoutedPairs:
    """Memory for what the routers of a batch choose in one projection and its siblings.

    Attributes:
        experts, factors: see `gating_cpu_loops.Choices`, flat.
        tokens, slots, weights, siblings, segment_starts, sources: see `routing_cpu_loops.Laid`.
    """

    experts: Tensor
    factors: Tensor
    tokens: Tensor
    slots: Tensor
    weights: Tensor
    siblings: Tensor
    segment_starts: Tensor
    sources: Tensor

    @classmethod
    def room(cls, routed: RoutedTokens, num_projections: int) -> "RoutedPairs":
        """For as many as can be chosen at most in so many projections."""
        size = routed.gates.num_pairs * num_projections * routed.max_choices

        def integers(count: int) -> Tensor:
            return torch.empty(count, dtype=torch.int32)

        return cls(
            experts=integers(size),
            factors=torch.empty(size),
            tokens=integers(size),
            slots=integers(size),
            weights=torch.empty(size),
            siblings=integers(size),
            segment_starts=integers(size + 1),
            sources=integers(size),
        )

    @property
    def choice_addresses(self) -> gating_cpu_loops.Choices:
        return self.experts.data_ptr(), self.factors.data_ptr()

    @property
    def laid_addresses(self) -> loops.Laid:
        return (
            self.tokens.data_ptr(),
            self.slots.data_ptr(),
            self.weights.data_ptr(),
            self.siblings.data_ptr(),
            self.segment_starts.data_ptr(),
            self.sources.data_ptr(),
        )

    def pairs(self, num_segments: int, max_rank: int) -> LoraPairs:
        """The pairs that have been laid out; in each segment a token has one at most."""
        starts = self.segment_starts[:num_segments].tolist()
        num_pairs = int(self.segment_starts[num_segments])
        return LoraPairs(
            tokens=self.tokens[:num_pairs],
            slots=self.slots[:num_pairs],
            weights=self.weights[:num_pairs],
            segment_starts=self.segment_starts[: num_segments + 1],
            max_rank=max_rank,
            siblings=self.siblings[:num_pairs],
            rounds=tuple(map(Round, range(num_segments), starts)) or (Round(0, 0),),
        )


def set_addresses(routed: RoutedTokens) -> gating_cpu_loops.Sets:
    """What the loops know of the sets."""
    return (
        routed.sets.data_ptr(),
        routed.expert_slots.data_ptr(),
        routed.rules.data_ptr(),
        routed.inverse_temperatures.data_ptr(),
        routed.thresholds.data_ptr(),
        *routed.expert_slots.shape,
        routed.max_choices,
    )


def most_gates(routed: RoutedTokens) -> int:
    """At least the gates of any router, and the ranks of any expert."""
    return max(routed.gates.max_rank, routed.max_rank)


def check_routed(tables: LoraTables, routed: RoutedTokens) -> None:
    """Raises: AssertionError, where the loops would read something else than is there."""
    check_tables(tables, routed.gates)
    num_tokens, num_sets = routed.gates.num_pairs, len(routed.expert_slots)
    shapes = {
        "sets": (torch.int32, (num_tokens,)),
        "expert_slots": (torch.int32, tuple(routed.expert_slots.shape)),
        "rules": (torch.int32, (num_sets, len(Rule))),
        "inverse_temperatures": (torch.float32, (num_sets,)),
        "thresholds": (torch.float32, (num_sets,)),
        "usage": (torch.float32, (num_tokens, routed.usage.shape[1])),
    }
    for name, (dtype, shape) in shapes.items():
        each: Tensor = getattr(routed, name)
        assert each.dtype == dtype, f"{name} is {each.dtype}, expected {dtype}"
        assert each.shape == shape, f"{name} has the shape {tuple(each.shape)}, expected {shape}"
        assert each.is_contiguous(), f"{name} must be contiguous"
    assert routed.max_choices >= 1, "max_choices must be 1 at least"


def _add_biases(
    products: Tensor,
    pool: Tensor,
    tables: LoraTables,
    routed: RoutedTokens,
    layer: int,
    projections: tuple[Projection, ...],
) -> None:
    """Add each router's biases, of any dtype, to [num_tokens, len(projections), most gates]."""
    for first, last in pairwise(routed.gates.segment_starts.tolist()):
        if first == last or not routed.rules[routed.sets[first], Rule.HAS_BIAS]:
            continue
        slot = int(routed.gates.slots[first])
        for s, projection in enumerate(projections):
            num_gates = int(tables.ranks[slot, layer, projection.module]) - 1
            if num_gates > 0:
                start = int(tables.run_starts[slot, layer, projection.module, 0])
                offset = int(tables.row_offsets[start + num_gates])
                biases = pool.view(-1)[offset : offset + num_gates]
                products[first:last, s, :num_gates] += biases.float()
