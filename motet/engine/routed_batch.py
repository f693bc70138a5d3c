"""The tokens of routed sets in a batch, and what their routers chose.

Owns: the index tensors of `RoutedTokens`, and the way of routing weights to the host.
Does not know: how a router chooses (`kernels/gating.py`), nor what becomes of the weights.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motet.core.routing import RoutingRule, Score, Share
from motet.engine.batch_arrays import BatchArrays, IntArray, rows_of_chunks, segment_starts
from motet.engine.transfer import Download, upload
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
from motet.memory.device_pool import DevicePool
from motet.memory.members import Router
from motet.scheduler.sequence import Routing, Sequence

_SCORES = {Score.LINEAR: LINEAR, Score.ABSOLUTE: ABSOLUTE, Score.SELF: SELF}
_SHARES = {Share.OF_CHOSEN: OF_CHOSEN, Share.OF_ALL: OF_ALL, Share.EQUAL: EQUAL}


@dataclass(frozen=True)
class RoutedChunk:
    """A chunk of a routed set: which it is, its router, and where its members are."""

    index: int
    router: Router
    router_slot: int
    expert_slots: tuple[int, ...]


@dataclass(frozen=True)
class RoutedBatch:
    """Chunks of routed sets.

    Attributes:
        tokens: what kernels are given.
        chunks: by the slot of their router.
        ends: int64 [len(chunks)]. Pair of each chunk's last token.
    """

    tokens: RoutedTokens
    chunks: SequenceOf[RoutedChunk]
    ends: IntArray


def routed_batch(arrays: BatchArrays, pool: DevicePool, *, per_block: bool) -> RoutedBatch | None:
    """Those chunks whose sets choose once per MLP block, or those whose sets do not; None if none.

    Args:
        arrays: the batch.
        pool: where routers and experts are.
        per_block: which of them.
    """
    found = [_routed(index, arrays.chunks[index].sequence) for index in arrays.several]
    routed = [each for each in found if each and each.router.rule.per_block == per_block]
    if not routed:
        return None
    routed.sort(key=lambda each: each.router_slot)
    tokens, starts = rows_of_chunks(arrays, np.array([each.index for each in routed]))
    slots = np.array([each.router_slot for each in routed])
    first_of_set = segment_starts(slots)
    sets = [routed[first] for first in first_of_set[:-1]]
    device = pool.data.device
    gates = LoraPairs(
        tokens=upload(tokens, torch.int32, device),
        slots=upload(np.repeat(slots, np.diff(starts)), torch.int32, device),
        weights=torch.ones(len(tokens), dtype=torch.float32, device=device),
        segment_starts=upload(starts[first_of_set], torch.int32, device),
        max_rank=max(1, int(pool.max_ranks[slots].max())),
    )
    sizes = np.diff(starts[first_of_set])
    return RoutedBatch(_routed_tokens(gates, sizes, sets, pool), routed, starts[1:] - 1)


def _routed(index: int, sequence: Sequence) -> RoutedChunk | None:
    """None for a chunk of a composition."""
    members, slots = sequence.members, sequence.member_slots
    if members is None or members.router is None or slots is None or slots.router is None:
        return None
    return RoutedChunk(index, members.router, slots.router, slots.experts)


def _routed_tokens(
    gates: LoraPairs, sizes: IntArray, sets: SequenceOf[RoutedChunk], pool: DevicePool
) -> RoutedTokens:
    """Args: the pairs with the gates; tokens of each set; a chunk of each set."""
    device = pool.data.device
    rules = [each.router.rule for each in sets]
    most_experts = max(len(each.expert_slots) for each in sets)
    expert_slots = np.full((len(sets), most_experts), pool.empty_slot)
    for row, each in zip(expert_slots, sets, strict=True):
        row[: len(each.expert_slots)] = each.expert_slots
    lowest = [-np.inf if rule.threshold is None else rule.threshold for rule in rules]
    most_gates = max(each.router.num_gates for each in sets)
    return RoutedTokens(
        gates=gates,
        sets=upload(np.repeat(np.arange(len(sets)), sizes), torch.int32, device),
        expert_slots=upload(expert_slots, torch.int32, device),
        rules=upload(np.array([_columns(rule) for rule in rules]), torch.int32, device),
        inverse_temperatures=upload(
            [1.0 / rule.temperature for rule in rules], torch.float32, device
        ),
        thresholds=upload(lowest, torch.float32, device),
        max_choices=max(_num_choices(each) for each in sets),
        max_rank=int(pool.max_ranks[expert_slots].max()),
        usage=torch.zeros(gates.num_pairs, most_gates, device=device),
    )


def _columns(rule: RoutingRule) -> list[int]:
    columns = {
        Rule.TOP_K: rule.top_k,
        Rule.SCORE: _SCORES[rule.score],
        Rule.SHARE: _SHARES[rule.share],
        Rule.BY_RANK: int(rule.by_rank),
        Rule.HAS_BIAS: int(rule.has_bias),
    }
    return [columns[column] for column in Rule]


def _num_choices(chunk: RoutedChunk) -> int:
    rule = chunk.router.rule
    return 1 if rule.by_rank else min(rule.top_k, len(chunk.expert_slots))


class PendingRouting:
    """What routers chose for the tokens that others are sampled from, on its way to the host.

    Args:
        asked: the sequences that asked, and their routers.
        usage: float32 [len(asked), most gates]. Weights, summed over what a router is used in.
    """

    def __init__(self, asked: SequenceOf[tuple[Sequence, Router]], usage: Tensor) -> None:
        self._asked = asked
        self._usage = Download(usage)

    def wait(self) -> Routing:
        """The weights of each one's gates, averaged. Returns once the step has run."""
        return {
            sequence: (row[: router.num_gates] / router.num_uses).tolist()
            for (sequence, router), row in zip(self._asked, self._usage.wait(), strict=True)
        }


def pending_routing(arrays: BatchArrays, routed: RoutedBatch) -> PendingRouting | None:
    """What was asked of a batch that is launched; None, if nothing."""
    asked, rows = [], []
    for each, row in zip(routed.chunks, routed.ends.tolist(), strict=True):
        chunk = arrays.chunks[each.index]
        if chunk.samples and chunk.sequence.returns_routing:
            asked.append((chunk.sequence, each.router))
            rows.append(row)
    if not asked:
        return None
    usage = routed.tokens.usage
    return PendingRouting(asked, usage.index_select(0, upload(rows, torch.int64, usage.device)))
