"""The compiled loops behind `routing_cpu.py`: from a router's choices to pairs.

Owns: how the pairs that a router has chosen lie, and the order of a routed shrink.
Does not know: torch, how gates are weighed (`gating_cpu_loops.py`), nor how rank rows are
multiplied (`lora_cpu_loops.py`). A tensor comes in as the address of its first element, as there.

Pairs are laid out by counting sort over set, expert and projection, so that an expert's rows are
read once for all tokens that chose it, be they two of a decode or hundreds of a prefill. A token's
experts are added up in the order of the set: its result depends neither on the tokens beside it
nor on the slots that the experts lie in.
"""

from typing import Any

import numpy as np
from numba import int64

from motet.kernels.compiled import compiled, floats, ints
from motet.kernels.gating_cpu_loops import (
    Choices,
    Sets,
    Usage,
    add_biases,
    choose,
    gate_ranks,
    num_routed,
)
from motet.kernels.lora_cpu_loops import Pairs, Rows, Siblings, Tables, shrink

NO_LIMIT = 2**31
"""Pairs of the longest segment to do: any."""

Room = tuple[int, int]
"""Address of float32 rows, one for a token and projection or one for a pair; elements of a row."""

Laid = tuple[int, int, int, int, int, int]
"""Addresses of what a `LoraPairs` has: tokens, slots, weights, siblings, segment_starts; and of
sources, int32 [num_pairs]: token * num_projections + projection, counting routed tokens."""

Routed = tuple[Pairs, Sets, Usage, int, Room, Choices, Laid, Room]
"""As in `Gating`: pairs, sets, usage and most gates; then room for products of gates, for choices,
for pairs and for their v."""


@compiled()
def lay_out(gates: Pairs, siblings: Siblings, sets: Sets, choices: Choices, laid: Laid) -> int:
    """Sort what was chosen by set, expert and projection; a pair is for one projection.

    Args:
        gates, siblings, sets, choices: see there.
        laid: is written; with room for num_tokens * num_projections * most choices pairs.

    Returns:
        The number of segments, none of which is empty.
    """
    set_of, expert_slots, _, _, _, num_sets, most_experts, most_choices = sets
    num_projections = siblings[1]
    num_tokens = num_routed(gates)
    most_pairs = num_tokens * num_projections * most_choices
    rows, members = ints(gates[0], num_tokens), ints(set_of, num_tokens)
    experts, factors = ints(choices[0], most_pairs), floats(choices[1], 0, most_pairs)
    tokens, slots = ints(laid[0], most_pairs), ints(laid[1], most_pairs)
    weights, masks = floats(laid[2], 0, most_pairs), ints(laid[3], most_pairs)
    starts, sources = ints(laid[4], most_pairs + 1), ints(laid[5], most_pairs)
    slot_of = ints(expert_slots, num_sets * most_experts)
    next_pair = np.zeros(num_sets * most_experts * num_projections, np.int64)
    for source in range(num_tokens * num_projections):
        first = int64(members[source // num_projections]) * most_experts
        for c in range(source * most_choices, (source + 1) * most_choices):
            if experts[c] < 0:
                break
            key = (first + experts[c]) * num_projections + source % num_projections
            next_pair[key] += 1
    num_segments, num_pairs = 0, int64(0)
    starts[0] = 0
    for key in range(len(next_pair)):
        count = next_pair[key]
        next_pair[key] = num_pairs
        num_pairs += count
        if count > 0:
            num_segments += 1
            starts[num_segments] = num_pairs
    for source in range(num_tokens * num_projections):
        i, s = source // num_projections, source % num_projections
        first = int64(members[i]) * most_experts
        for c in range(source * most_choices, (source + 1) * most_choices):
            if experts[c] < 0:
                break
            key = (first + experts[c]) * num_projections + s
            p = next_pair[key]
            next_pair[key] = p + 1
            tokens[p], slots[p] = rows[i], slot_of[first + experts[c]]
            weights[p], masks[p], sources[p] = factors[c], 1 << s, source
    return num_segments


@compiled()
def laid_pairs(laid: Laid, num_segments: int) -> Any:
    """What `lay_out` left, as `shrink` and `expand` take it."""
    tokens, slots, _, masks, starts, _ = laid
    return tokens, slots, starts, masks, num_segments, NO_LIMIT, 1


@compiled()
def laid_partial(v: Room) -> Any:
    """v of such pairs: each is for one projection, so it needs one row."""
    return v[0], v[1], int64(0)


@compiled()
def shrink_routed(
    tables: Tables, routed: Routed, siblings: Siblings, x: Rows, pool: int, num_threads: int
) -> int:
    """Choose adapters for routed tokens and shrink with them. See `types.Kernels.shrink_routed`.

    Returns:
        The number of segments of the pairs that were laid out.
    """
    gates, sets, usage, most_gates, (products, num_columns), choices, laid, (v, num_rows) = routed
    by_gate = (products, siblings[1] * num_columns, num_columns)
    gating = (tables, gates, siblings, sets, usage, by_gate, most_gates)
    shrink(tables, gates, siblings, x, pool, by_gate, num_threads)
    add_biases(gating, pool)
    choose(gating, choices, num_threads)
    num_segments = lay_out(gates, siblings, sets, choices, laid)
    if num_segments > 0:
        num_pairs = int64(ints(laid[4], num_segments + 1)[num_segments])
        pairs, by_pair = laid_pairs(laid, num_segments), laid_partial((v, num_rows))
        shrink(tables, pairs, siblings, x, pool, by_pair, num_threads)
        gate_ranks(gating, laid[5], num_pairs, by_pair, num_threads)
    return num_segments
