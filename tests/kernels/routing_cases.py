"""Random routed sets in a pool, for the tests of routed shrink.

Owns: routers and experts of several sets with different rules, and tokens that use them.
Does not know: any kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motet.kernels.types import (
    ABSOLUTE,
    EQUAL,
    LINEAR,
    OF_ALL,
    OF_CHOSEN,
    SELF,
    LoraPairs,
    RoutedTokens,
    Rule,
)
from tests.kernels.lora_cases import LoraCase, Ranks, Widths, build_case


@dataclass(frozen=True)
class RoutedSet:
    """A set's rule, and how many experts it has. By rank it has one."""

    num_experts: int
    top_k: int
    score: int = LINEAR
    share: int = OF_CHOSEN
    temperature: float = 1.0
    threshold: float = -torch.inf
    by_rank: bool = False
    has_bias: bool = False


SETS: dict[str, RoutedSet] = {
    "meteora": RoutedSet(7, 2),
    "meteora-warm": RoutedSet(4, 3, temperature=15.0),
    "top-1": RoutedSet(5, 1),
    "lora-mixer": RoutedSet(6, 3, share=OF_ALL),
    "all": RoutedSet(3, 3, share=OF_ALL, temperature=0.5),
    "more-than-there-are": RoutedSet(2, 9),
    "arrow": RoutedSet(5, 3, score=ABSOLUTE, temperature=0.7),
    "picky": RoutedSet(5, 3, threshold=0.4),
    "smora": RoutedSet(1, 5, share=EQUAL, by_rank=True, has_bias=True),
    "smora-softmax": RoutedSet(1, 40, by_rank=True, has_bias=True),
    "smora-of-all": RoutedSet(1, 4, share=OF_ALL, by_rank=True, has_bias=True),
    "mora": RoutedSet(1, 4, SELF, OF_ALL, temperature=0.3, threshold=0.1, by_rank=True),
}
"""Rules of all methods, and what lies between them."""


@dataclass(frozen=True)
class RoutingCase:
    """Sets in a pool. Router i has slot 2 * i; the experts have the other slots, shuffled."""

    lora: LoraCase
    sets: Sequence[RoutedSet]
    expert_slots: Tensor
    max_rank: int
    most_gates: int

    def tokens(self, users: Sequence[tuple[int, int]]) -> RoutedTokens:
        """Tokens of a batch, each a (row, number of its set)."""
        users = sorted(users, key=lambda user: user[1])  # as their routers' slots are
        numbers = [a_set for _, a_set in users]
        starts = [i for i, n in enumerate(numbers) if i == 0 or numbers[i - 1] != n]
        rules = torch.zeros(len(self.sets), len(Rule), dtype=torch.int32)
        for row, each in zip(rules, self.sets, strict=True):
            row[Rule.TOP_K], row[Rule.SCORE] = each.top_k, each.score
            row[Rule.SHARE], row[Rule.BY_RANK] = each.share, each.by_rank
            row[Rule.HAS_BIAS] = each.has_bias
        choices = [min(s.top_k, s.num_experts) for s in self.sets if not s.by_rank]
        return RoutedTokens(
            gates=LoraPairs(
                tokens=torch.tensor([token for token, _ in users], dtype=torch.int32),
                slots=2 * torch.tensor(numbers, dtype=torch.int32),
                weights=torch.full((len(users),), torch.nan),
                segment_starts=torch.tensor([*starts, len(users)], dtype=torch.int32),
                max_rank=self.most_gates + 1,
            ),
            sets=torch.tensor(numbers, dtype=torch.int32),
            expert_slots=self.expert_slots,
            rules=rules,
            inverse_temperatures=torch.tensor([1 / s.temperature for s in self.sets]),
            thresholds=torch.tensor([s.threshold for s in self.sets]),
            max_choices=max(choices, default=1),
            max_rank=self.max_rank,
            usage=torch.zeros(len(users), self.most_gates),
        )


def build_routing(
    generator: torch.Generator,
    modules: Sequence[Widths],
    sets: Sequence[RoutedSet],
    *,
    num_layers: int,
    layer: int,
    max_rank: int = 12,
    dtype: torch.dtype = torch.float32,
) -> RoutingCase:
    """Experts of ranks 0 to `max_rank`, differing by module; a router lacks one module in five."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    odd_slots = (
        1 + 2 * torch.randperm(sum(s.num_experts for s in sets), generator=generator)
    ).int()
    ranks: Ranks = {}
    expert_slots = torch.full((len(sets), max(s.num_experts for s in sets)), 2**30).int()
    for number, (a_set, slots) in enumerate(
        zip(sets, odd_slots.split([s.num_experts for s in sets]), strict=True)
    ):
        expert_slots[number, : len(slots)] = slots
        for module in range(len(modules)):
            for slot in slots.tolist():
                ranks[slot, layer, module] = draw(int(a_set.by_rank), max_rank)
            if a_set.score != SELF and draw(1, 5) > 1:
                num_gates = ranks[int(slots[0]), layer, module] if a_set.by_rank else len(slots)
                ranks[2 * number, layer, module] = num_gates + a_set.has_bias
    lora = build_case(
        generator,
        modules,
        ranks,
        num_slots=2 * (len(odd_slots) + len(sets)) + 2,
        num_layers=num_layers,
        dtype=dtype,
    )
    most_gates = max(max_rank, *(s.num_experts for s in sets))
    return RoutingCase(lora, sets, expert_slots, max_rank, most_gates)
