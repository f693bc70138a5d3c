"""The routed tokens that kernels are checked and timed on.

Owns: their sets, which are of the kinds of `KINDS`, and where gates and experts lie in a pool.
Does not know: any kernel.

A router is packed as an adapter is; its columns of B are there and nobody's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.gpu.lora_pool import (
    Matrices,
    Ranks,
    build_pairs,
    build_pool,
    model_geometry,
    random_adapter,
    uniform_ranks,
)
from motet.core.shape import ModelShape
from motet.kernels.types import EQUAL, LINEAR, OF_ALL, OF_CHOSEN, SELF, RoutedTokens
from motet.memory.device_pool import DevicePool

TOP_K = 2
KINDS = {  # by the columns of `types.Rule`
    "experts": (TOP_K, LINEAR, OF_CHOSEN, 0, 0),
    "gated ranks": (TOP_K, LINEAR, EQUAL, 1, 1),
    "ranks that gate themselves": (TOP_K, SELF, OF_ALL, 1, 0),
}


@dataclass(frozen=True)
class RoutedBatch:
    """Tokens of one set, or of one of each kind, one after the other.

    Attributes:
        matrices: of each slot; those of a router are its gates, in the place of A.
        routers: the slot of each set's router.
    """

    pool: DevicePool
    matrices: Sequence[Matrices]
    routed: RoutedTokens
    routers: Sequence[int]

    @property
    def num_tokens(self) -> int:
        return self.routed.gates.num_pairs


def routed_batch(
    shape: ModelShape,
    kinds: Sequence[str],
    num_tokens: int,
    num_experts: int,
    rank: int,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> RoutedBatch:
    """A batch of sets of these kinds, all ranks the same."""
    geometry, device = model_geometry(shape), generator.device
    ranks: list[Ranks] = []
    routers, expert_slots = [], []
    for kind in kinds:
        by_rank, has_bias = KINDS[kind][3:]
        num_members = 1 if by_rank else num_experts
        num_rows = (rank if by_rank else num_experts) + has_bias
        routers.append(len(ranks))
        is_self = KINDS[kind][1] == SELF
        ranks.append(uniform_ranks(shape, 1) if is_self else uniform_ranks(shape, num_rows))
        own = list(range(len(ranks), len(ranks) + num_members))
        expert_slots.append(own + [0] * (num_experts - num_members))
        ranks += [uniform_ranks(shape, rank)] * num_members
    adapters = [random_adapter(geometry, each, dtype, generator) for each in ranks]
    counts = [
        num_tokens * (i + 1) // len(kinds) - num_tokens * i // len(kinds) for i in range(len(kinds))
    ]
    tokens = torch.randperm(num_tokens)
    gates = build_pairs(
        list(zip(routers, counts, strict=True)), tokens, max(num_experts, rank) + 1, device
    )
    sets = torch.arange(len(kinds)).repeat_interleave(torch.tensor(counts))
    most_gates = max(num_experts, rank)
    routed = RoutedTokens(
        gates=gates,
        sets=sets.to(device, torch.int32),
        expert_slots=torch.tensor(expert_slots, dtype=torch.int32, device=device),
        rules=torch.tensor([KINDS[kind] for kind in kinds], dtype=torch.int32, device=device),
        inverse_temperatures=torch.ones(len(kinds), device=device),
        thresholds=torch.full((len(kinds),), -torch.inf, device=device),
        max_choices=min(TOP_K, num_experts),
        max_rank=rank,
        usage=torch.zeros(num_tokens, most_gates, device=device),
    )
    return RoutedBatch(
        pool=build_pool(geometry, [adapter.packed for adapter in adapters], device),
        matrices=[adapter.matrices for adapter in adapters],
        routed=routed,
        routers=routers,
    )
