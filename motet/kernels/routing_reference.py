"""Routed shrink in plain torch: what the fast kernels are tested against.

Owns: what a router does to one token in one projection, one at a time.
Does not know: speed, nor how scores become weights (`gating.py`).
"""

import torch
from torch import Tensor

from motet.kernels import lora_reference
from motet.kernels.gating import gate_weights
from motet.kernels.types import (
    SELF,
    LoraPairs,
    LoraTables,
    Projection,
    Round,
    RoutedTokens,
    Rule,
)


def shrink_routed(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    routed: RoutedTokens,
    layer: int,
    projections: tuple[Projection, ...],
) -> tuple[Tensor, LoraPairs]:
    """See `types.Kernels.shrink_routed`. Each pair is a round of its own, of one sibling."""
    chosen: list[tuple[int, int, float, int, Tensor | None]] = []
    for s, projection in enumerate(projections):
        weights, num_gates = _weights(x, pool, tables, routed, layer, projection)
        for i, token in enumerate(routed.gates.tokens.tolist()):
            routed.usage[i, : weights.shape[1]] += weights[i].to(routed.usage.dtype)
            a_set = int(routed.sets[i])
            slots = routed.expert_slots[a_set].tolist()
            if routed.rules[a_set, Rule.BY_RANK]:
                if num_gates[i] > 0:
                    chosen.append((token, slots[0], 1.0, s, weights[i]))
            else:
                for expert in weights[i].nonzero().flatten().tolist():
                    chosen.append((token, slots[expert], float(weights[i, expert]), s, None))
    pairs = _pairs(chosen, routed.max_rank, x.device)
    v = lora_reference.shrink(x, pool, tables, pairs, layer, projections)
    for p, (_, _, _, s, by_rank) in enumerate(chosen):
        if by_rank is not None:
            num_ranks = min(pairs.max_rank, len(by_rank))
            v[0, p, s, :num_ranks] *= by_rank[:num_ranks]
    return v, pairs


def _weights(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    routed: RoutedTokens,
    layer: int,
    projection: Projection,
) -> tuple[Tensor, Tensor]:
    """Weights of the gates of each token, [num_tokens, most gates], and the number of gates."""
    gates = routed.gates
    products = lora_reference.shrink(x, pool, tables, gates, layer, (projection,))[0, :, 0]
    if products.shape[1] < routed.usage.shape[1]:
        missing = routed.usage.shape[1] - products.shape[1]
        products = torch.nn.functional.pad(products, (0, missing), value=torch.nan)
    products = products[:, : routed.usage.shape[1]].clone()
    rules = routed.rules[routed.sets.long()]
    router_slots = gates.slots.long()
    num_gates = tables.ranks[router_slots, layer, projection.module] - rules[:, Rule.HAS_BIAS]
    num_gates = num_gates.clamp(min=0)
    for i, rule in enumerate(rules):
        if rule[Rule.SCORE] == SELF:
            num_gates[i] = _self_products(x, pool, tables, routed, layer, projection, i, products)
        elif rule[Rule.HAS_BIAS] and num_gates[i] > 0:
            start = int(tables.run_starts[router_slots[i], layer, projection.module, 0])
            offset = int(tables.row_offsets[start + int(num_gates[i])])
            n = int(num_gates[i])
            products[i, :n] += pool.view(-1)[offset : offset + n].to(products.dtype)
    return gate_weights(products, num_gates, routed), num_gates


def _self_products(
    x: Tensor,
    pool: Tensor,
    tables: LoraTables,
    routed: RoutedTokens,
    layer: int,
    projection: Projection,
    i: int,
    products: Tensor,
) -> int:
    """Write the only expert's A x of one token; the number of its ranks."""
    slot = int(routed.expert_slots[int(routed.sets[i]), 0])
    token = int(routed.gates.tokens[i])
    pair = _pairs([(token, slot, 1.0, 0, None)], products.shape[1], x.device)
    rank = int(tables.ranks[slot, layer, projection.module])
    v = lora_reference.shrink(x, pool, tables, pair, layer, (projection,))[0, 0, 0]
    products[i, :rank] = v[:rank]
    return rank


def _pairs(
    chosen: list[tuple[int, int, float, int, Tensor | None]], max_rank: int, device: torch.device
) -> LoraPairs:
    def column(values: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return LoraPairs(
        tokens=column([token for token, *_ in chosen]),
        slots=column([slot for _, slot, *_ in chosen]),
        weights=torch.tensor([weight for _, _, weight, *_ in chosen], device=device),
        segment_starts=column(list(range(len(chosen) + 1))),
        max_rank=max_rank,
        siblings=column([1 << s for *_, s, _ in chosen]),
        rounds=tuple(Round(p, p) for p in range(max(1, len(chosen)))),
    )
