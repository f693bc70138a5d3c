"""The adapters of a batch as kernels are given them: fixed pairs, and tokens of routed sets.

Owns: which token has which pairs, and in which round.
Does not know: how tokens are laid out (`batch_arrays.py`), nor how routers choose.

Chunks with an adapter that all their tokens use come first, by the least slot of these, so the
first round is a slice of the batch. A further round has a pair for each token of a composition, or
of a set with shared adapters, that has so many more. No loop in Python but over such chunks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from motet.engine.batch_arrays import BatchArrays, IntArray, rows_of_chunks, segment_starts
from motet.engine.routed_batch import RoutedBatch, routed_batch
from motet.engine.transfer import upload
from motet.kernels.types import LoraPairs, Round
from motet.memory.device_pool import DevicePool
from motet.memory.members import MemberSlots
from motet.models.context import LoraContext


@dataclass(frozen=True)
class LoraBatch:
    """What a step is given of adapters.

    Attributes:
        context: for the model; None for a batch without adapters.
        routed: the tokens of routed sets, by projection and by block, of which there are some.
    """

    context: LoraContext | None
    routed: tuple[RoutedBatch, ...]


def max_fixed_rank(arrays: BatchArrays, pool: DevicePool) -> int:
    """The largest rank of the adapters that all tokens of a chunk use; 0 without any."""
    max_rank = int(pool.max_ranks[arrays.slots[: arrays.num_adapted]].max(initial=0))
    if arrays.is_plain:
        return max_rank
    slots = [slot for chunk in arrays.several for slot, _ in _member_slots(arrays, chunk).fixed]
    return max(max_rank, int(pool.max_ranks[slots].max(initial=0)))


def lora_batch(arrays: BatchArrays, pool: DevicePool, max_rank: int) -> LoraBatch:
    """Lay out the adapters of a batch.

    Args:
        arrays: the batch.
        pool: where the adapters are.
        max_rank: the largest rank of what all tokens of a chunk use.
    """
    pairs = fixed_pairs(arrays, max_rank, pool.data.device)
    if arrays.is_plain:
        context = None if pairs is None else LoraContext(tables=pool.tables, pairs=pairs)
        return LoraBatch(context, ())
    routed = routed_batch(arrays, pool, per_block=False)
    blocks = routed_batch(arrays, pool, per_block=True)
    context = LoraContext(
        tables=pool.tables,
        pairs=pairs,
        routed=None if routed is None else routed.tokens,
        blocks=None if blocks is None else blocks.tokens,
    )
    return LoraBatch(context, tuple(each for each in (routed, blocks) if each is not None))


def fixed_pairs(arrays: BatchArrays, max_rank: int, device: torch.device) -> LoraPairs | None:
    """The pairs of plain adapters, of compositions, and of what sets share; None without any."""
    if arrays.num_adapted == 0:
        return None
    if not arrays.is_plain:
        return _pairs_in_rounds(arrays, max_rank, device)
    num_adapted = arrays.num_adapted
    num_pairs = int(arrays.query_starts[num_adapted])
    num_new = np.diff(arrays.query_starts[: num_adapted + 1])
    slots = arrays.slots[:num_adapted]
    return LoraPairs(
        tokens=torch.arange(num_pairs, dtype=torch.int32, device=device),
        slots=upload(np.repeat(slots, num_new), torch.int32, device),
        weights=torch.ones(num_pairs, dtype=torch.float32, device=device),
        segment_starts=upload(arrays.query_starts[segment_starts(slots)], torch.int32, device),
        max_rank=max_rank,
    )


@dataclass(frozen=True)
class _Uses:
    """Uses of an adapter by all tokens of a chunk, by round and then slot: arrays [num_uses]."""

    rounds: IntArray
    slots: IntArray
    chunks: IntArray
    weights: npt.NDArray[np.float64]


def _uses(arrays: BatchArrays) -> _Uses:
    num_adapted = arrays.num_adapted
    weights = np.ones(num_adapted)
    further = []
    for chunk in arrays.several:
        for index, (slot, weight) in enumerate(_member_slots(arrays, chunk).fixed):
            if index == 0:
                weights[chunk] = weight
            else:
                further.append((index, slot, chunk, weight))
    further.sort()
    rounds, slots, chunks, more_weights = zip(*further, strict=True) if further else ((),) * 4
    return _Uses(
        rounds=np.concatenate([np.zeros(num_adapted, np.int64), np.array(rounds, np.int64)]),
        slots=np.concatenate([arrays.slots[:num_adapted], np.array(slots, np.int64)]),
        chunks=np.concatenate([np.arange(num_adapted), np.array(chunks, np.int64)]),
        weights=np.concatenate([weights, np.array(more_weights)]),
    )


def _member_slots(arrays: BatchArrays, chunk: int) -> MemberSlots:
    member_slots = arrays.chunks[chunk].sequence.member_slots
    assert member_slots is not None, "a running sequence knows where its members are"
    return member_slots


def _pairs_in_rounds(arrays: BatchArrays, max_rank: int, device: torch.device) -> LoraPairs:
    uses = _uses(arrays)
    tokens, starts = rows_of_chunks(arrays, uses.chunks)
    lengths = np.diff(starts)
    is_new_round = np.diff(uses.rounds, prepend=-1) != 0
    is_new_segment = is_new_round | (np.diff(uses.slots, prepend=-1) != 0)
    segments = np.flatnonzero(is_new_segment)
    first_segments = np.searchsorted(segments, np.flatnonzero(is_new_round))
    return LoraPairs(
        tokens=upload(tokens, torch.int32, device),
        slots=upload(np.repeat(uses.slots, lengths), torch.int32, device),
        weights=upload(np.repeat(uses.weights, lengths), torch.float32, device),
        segment_starts=upload(starts[[*segments, len(lengths)]], torch.int32, device),
        max_rank=max_rank,
        rounds=tuple(
            Round(int(segment), int(starts[segments[segment]])) for segment in first_segments
        ),
    )
