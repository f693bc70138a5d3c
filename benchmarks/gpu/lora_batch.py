"""The batches that shrink and expand are checked on.

Owns: which adapters they have, and which token uses which.
Does not know: any kernel.

Decode and prefill have tokens without an adapter, adapters that leave projections out, and a slot
without rank rows, as tokens of the base model have in a captured step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.gpu.lora_pool import (
    Matrices,
    Ranks,
    build_pairs,
    build_pool,
    model_geometry,
    random_adapter,
    uniform_ranks,
)
from benchmarks.gpu.plan import CheckPlan
from motet.core.shape import ModelShape, Module
from motet.kernels.types import LoraPairs
from motet.memory.device_pool import DevicePool

_NUM_BASE_TOKENS = 3


@dataclass(frozen=True)
class LoraBatch:
    """Pairs over `num_tokens` tokens.

    Attributes:
        matrices: of the adapter of each slot; a slot after the last has none.
        segments: (slot, number of tokens).
    """

    pool: DevicePool
    matrices: Sequence[Matrices]
    pairs: LoraPairs
    segments: Sequence[tuple[int, int]]
    num_tokens: int

    def rows(self) -> Iterator[tuple[int, slice, Tensor]]:
        """Of each segment: its slot, its pairs, and its rows of the batch."""
        starts = self.pairs.segment_starts.tolist()
        for (slot, _), (first, end) in zip(self.segments, pairwise(starts), strict=True):
            yield slot, slice(first, end), self.pairs.tokens[first:end].long()


def decode_batch(
    plan: CheckPlan, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator
) -> LoraBatch:
    """Every token its own segment, as in a captured step."""
    num_adapters = plan.num_decode_tokens
    segments = [(slot, 1) for slot in range(num_adapters)] + [(num_adapters, 1)] * 2
    ranks = _ranks(plan, shape, num_adapters)
    return _batch(shape, ranks, dtype, generator, segments, _NUM_BASE_TOKENS)


def prefill_batch(
    plan: CheckPlan, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator
) -> LoraBatch:
    """A segment for each adapter, of very different lengths."""
    segments = [*enumerate(plan.prefill_segments), (len(plan.prefill_segments), 5)]
    ranks = _ranks(plan, shape, len(plan.prefill_segments))
    return _batch(shape, ranks, dtype, generator, segments, _NUM_BASE_TOKENS)


def single_adapter_batch(
    plan: CheckPlan, shape: ModelShape, dtype: torch.dtype, generator: torch.Generator
) -> LoraBatch:
    """One adapter on every token, in order."""
    ranks = [uniform_ranks(shape, max(plan.lora_ranks))]
    return _batch(shape, ranks, dtype, generator, [(0, plan.num_single_tokens)], 0)


def _batch(
    shape: ModelShape,
    ranks: Sequence[Ranks],
    dtype: torch.dtype,
    generator: torch.Generator,
    segments: Sequence[tuple[int, int]],
    num_base_tokens: int,
) -> LoraBatch:
    """The pairs' tokens in random order among those of the base model; in order without any."""
    geometry, device = model_geometry(shape), generator.device
    adapters = [random_adapter(geometry, each, dtype, generator) for each in ranks]
    num_pairs = sum(count for _, count in segments)
    num_tokens = num_pairs + num_base_tokens
    tokens = torch.randperm(num_tokens)[:num_pairs] if num_base_tokens else torch.arange(num_pairs)
    max_rank = max(rank for each in ranks for rank in each.values())
    return LoraBatch(
        pool=build_pool(geometry, [adapter.packed for adapter in adapters], device),
        matrices=[adapter.matrices for adapter in adapters],
        pairs=build_pairs(segments, tokens, max_rank, device),
        segments=segments,
        num_tokens=num_tokens,
    )


def _ranks(plan: CheckPlan, shape: ModelShape, num_adapters: int) -> list[Ranks]:
    """Mixed ranks; one adapter of four leaves out q and down."""
    ranks: list[Ranks] = []
    for i in range(num_adapters):
        all_seven = uniform_ranks(shape, plan.lora_ranks[i % len(plan.lora_ranks)])
        left_out = (Module.Q, Module.DOWN) if i % 4 == 1 else ()
        ranks.append({key: rank for key, rank in all_seven.items() if key[1] not in left_out})
    return ranks
