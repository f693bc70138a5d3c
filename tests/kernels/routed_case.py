"""Random routed sets in a pool, for the tests of routed kernels.

Owns: sets of every kind of rule, as tables, pool and `RoutedTokens`.
Does not know: any kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motet.core.routing import RoutingRule, Score, Share
from motet.kernels.types import (
    ABSOLUTE,
    EQUAL,
    LINEAR,
    OF_ALL,
    OF_CHOSEN,
    SELF,
    LoraPairs,
    LoraTables,
    RoutedTokens,
)
from tests.kernels.lora_cases import Ranks, Widths, build_case

_SCORES = {Score.LINEAR: LINEAR, Score.ABSOLUTE: ABSOLUTE, Score.SELF: SELF}
_SHARES = {Share.OF_CHOSEN: OF_CHOSEN, Share.OF_ALL: OF_ALL, Share.EQUAL: EQUAL}

RULES = {
    "meteora": RoutingRule(top_k=2, temperature=0.3),
    "lora_mixer": RoutingRule(top_k=3, share=Share.OF_ALL),
    "arrow": RoutingRule(top_k=3, score=Score.ABSOLUTE, temperature=0.5),
    "all": RoutingRule(top_k=9),
    "equal": RoutingRule(top_k=1, share=Share.EQUAL, has_bias=True),
    "above": RoutingRule(top_k=2, threshold=0.4),
    "smora": RoutingRule(top_k=3, share=Share.EQUAL, by_rank=True, has_bias=True),
    "soft smora": RoutingRule(top_k=4, share=Share.OF_CHOSEN, by_rank=True, has_bias=True),
    "mora": RoutingRule(
        top_k=4, score=Score.SELF, share=Share.OF_ALL, temperature=0.2, threshold=0.1, by_rank=True
    ),
}


@dataclass(frozen=True)
class RoutedCase:
    """Routed tokens and all that they need; those of no set are of `num_tokens` too."""

    pool: Tensor
    tables: LoraTables
    routed: RoutedTokens
    num_tokens: int


def build_routed(
    generator: torch.Generator,
    modules: Sequence[Widths],
    sets: Sequence[tuple[RoutingRule, int, int]],
    ranks: Sequence[int],
    *,
    num_layers: int,
    dtype: torch.dtype = torch.float32,
    page_elems: int | None = None,
    num_base_tokens: int = 2,
    one_segment_each: bool = False,
) -> RoutedCase:
    """Sets of (rule, experts, tokens); experts have one of these ranks in each layer and module.

    In one of five places a router has no gates, in one of five those of fewer experts.
    """
    drawn: Ranks = {}
    routers, experts, next_slot = [], [], 0
    for rule, num_experts, _ in sets:
        routers.append(next_slot)
        count = 1 if rule.by_rank else num_experts
        experts.append(list(range(next_slot + 1, next_slot + 1 + count)))
        next_slot += 1 + count
        _draw_ranks(generator, drawn, rule, routers[-1], experts[-1], ranks, modules, num_layers)
    case = build_case(
        generator,
        modules,
        drawn,
        num_slots=next_slot,
        num_layers=num_layers,
        dtype=dtype,
        page_elems=page_elems,
    )
    case.tables.run_starts[routers, :, :, 1] = 0  # a router has no B
    counts = [count for _, _, count in sets]
    num_tokens = sum(counts) + num_base_tokens
    gates = LoraPairs(
        tokens=torch.randperm(num_tokens, generator=generator)[: sum(counts)].int(),
        slots=torch.tensor(routers).repeat_interleave(torch.tensor(counts)).int(),
        weights=torch.full((sum(counts),), torch.nan),  # nobody may use them
        segment_starts=torch.tensor([0, *counts]).cumsum(0).int(),
        max_rank=max((drawn[key] for key in drawn if key[0] in routers), default=0),
    )
    if one_segment_each:
        gates = replace(gates, segment_starts=torch.arange(sum(counts) + 1, dtype=torch.int32))
    sets_of_tokens = torch.arange(len(sets)).repeat_interleave(torch.tensor(counts)).int()
    routed = _routed(generator, gates, sets_of_tokens, [rule for rule, *_ in sets], experts, drawn)
    return RoutedCase(case.pool, case.tables, routed, num_tokens)


def _draw_ranks(
    generator: torch.Generator,
    drawn: Ranks,
    rule: RoutingRule,
    router: int,
    experts: Sequence[int],
    ranks: Sequence[int],
    modules: Sequence[Widths],
    num_layers: int,
) -> None:
    for layer in range(num_layers):
        for module in range(len(modules)):
            for expert in experts:
                index = int(torch.randint(len(ranks), (), generator=generator))
                drawn[expert, layer, module] = ranks[index]
            if rule.score is Score.SELF:
                continue
            num_gates = drawn[experts[0], layer, module] if rule.by_rank else len(experts)
            kind = int(torch.randint(5, (), generator=generator))
            if kind == 0 or num_gates == 0:
                continue
            if kind == 1 and not rule.by_rank:
                num_gates = max(1, num_gates - 1)
            drawn[router, layer, module] = num_gates + rule.has_bias


def _routed(
    generator: torch.Generator,
    gates: LoraPairs,
    sets: Tensor,
    rules: Sequence[RoutingRule],
    experts: Sequence[Sequence[int]],
    drawn: Ranks,
) -> RoutedTokens:
    most_experts = max(len(each) for each in experts)
    of_experts = [slot for each in experts for slot in each]
    max_rank = max(rank for (slot, *_), rank in drawn.items() if slot in of_experts)
    choosing = [
        min(rule.top_k, len(each))
        for rule, each in zip(rules, experts, strict=True)
        if not rule.by_rank
    ]
    most_gates = max(most_experts, *(max_rank if rule.by_rank else 1 for rule in rules))
    columns = [[r.top_k, _SCORES[r.score], _SHARES[r.share], r.by_rank, r.has_bias] for r in rules]
    thresholds = [-torch.inf if r.threshold is None else r.threshold for r in rules]
    slots = torch.full((len(experts), most_experts), 2**30, dtype=torch.int32)  # unused
    for row, each in zip(slots, experts, strict=True):
        row[: len(each)] = torch.tensor(each)
    return RoutedTokens(
        gates=gates,
        sets=sets,
        expert_slots=slots,
        rules=torch.tensor(columns, dtype=torch.int32),
        inverse_temperatures=torch.tensor([1 / r.temperature for r in rules]),
        thresholds=torch.tensor(thresholds),
        max_choices=max([1, *choosing]),
        max_rank=max_rank,
        usage=torch.rand(gates.num_pairs, most_gates, generator=generator),
    )
