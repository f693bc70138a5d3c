"""Batches for the LoRA kernels at the shape of Llama-3.1-8B, one for each class of shape.

Owns: what a class is measured with, and how its adapters lie in a pool.
Does not know: kernels, sizes, time.

A class has several batches of adapters of their own, more bytes in all than a GPU's L2 cache holds:
as in a step, where a layer comes again after all others.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from motet.kernels.lora_triton_sizes import Shape
from motet.kernels.types import LoraPairs, LoraTables, Projection

HIDDEN, KV, INTERMEDIATE = 4096, 1024, 14336
PAGE_ELEMS = 2 * 16 * KV
QKV = (Projection(0, 0, HIDDEN), Projection(1, HIDDEN, KV), Projection(2, HIDDEN + KV, KV))
GATE_UP = (Projection(0, 0, INTERMEDIATE), Projection(1, INTERMEDIATE, INTERMEDIATE))
SQUARE = DOWN = (Projection(0, 0, HIDDEN),)

RANK_OF_CLASS = {1: 16, 17: 64, 65: 128}
SEGMENTS_OF_SLOT_CLASS = {1: (1,) * 4, 9: (1,) * 32, 65: (1,) * 128}
SEGMENTS_OF_SEGMENT_CLASS = {1: (8,) * 8, 32: (64,) * 8, 128: (1024,) * 8}

_BYTES_OF_ALL_BATCHES = 1 << 29
_MOST_BATCHES = 256


@dataclass(frozen=True)
class LoraBatches:
    """What one kernel is measured with.

    Attributes:
        pool: [1, num_pages, page_elems], random.
        batches: pairs over adapters of their own, all of one make-up.
        projections: siblings, in modules 0, 1, ...
        in_features: of a shrink; the widths of an expand are those of the projections.
        num_bytes: of the rank rows that one batch reads.
    """

    pool: Tensor
    tables: LoraTables
    batches: tuple[LoraPairs, ...]
    projections: tuple[Projection, ...]
    in_features: int
    num_bytes: int

    @property
    def num_tokens(self) -> int:
        return self.batches[0].num_pairs

    @property
    def out_features(self) -> int:
        return sum(p.out_features for p in self.projections)


def shrink_batches(least: Shape, dtype: torch.dtype, device: torch.device) -> LoraBatches:
    """For a shrink of the class with this least shape: q, k, v, or down where it is wide."""
    in_features, projections = (HIDDEN, QKV) if least.width == 1 else (INTERMEDIATE, DOWN)
    widths = [in_features] * len(projections)
    return _build(least, projections, in_features, widths, dtype, device)


def expand_batches(least: Shape, dtype: torch.dtype, device: torch.device) -> LoraBatches:
    """For an expand of the class with this least shape: q, k, v, or gate and up where it is wide.

    Run starts and ranks are those of B only; a shrink of these batches would read nonsense.
    """
    projections = QKV if least.width == 1 else GATE_UP
    widths = [p.out_features for p in projections]
    return _build(least, projections, HIDDEN, widths, dtype, device)


def one_adapter(
    rank: int, num_tokens: int, dtype: torch.dtype, device: torch.device
) -> LoraBatches:
    """One batch of one adapter of o, which is square: A and B are the same rows."""
    pool, tables = _place_rows([HIDDEN], 1, rank, dtype, device)
    pairs = _pairs((num_tokens,), 0, rank, device)
    return LoraBatches(pool, tables, (pairs,), SQUARE, HIDDEN, rank * HIDDEN * dtype.itemsize)


def _build(
    least: Shape,
    projections: tuple[Projection, ...],
    in_features: int,
    widths: list[int],
    dtype: torch.dtype,
    device: torch.device,
) -> LoraBatches:
    rank = RANK_OF_CLASS[least.max_rank]
    by_class = SEGMENTS_OF_SEGMENT_CLASS if least.by_segment else SEGMENTS_OF_SLOT_CLASS
    segments = by_class[least.pairs]
    num_bytes = len(segments) * rank * sum(widths) * dtype.itemsize
    num_batches = max(1, min(_BYTES_OF_ALL_BATCHES // num_bytes, _MOST_BATCHES))
    pool, tables = _place_rows(widths, num_batches * len(segments), rank, dtype, device)
    batches = tuple(_pairs(segments, i * len(segments), rank, device) for i in range(num_batches))
    return LoraBatches(pool, tables, batches, projections, in_features, num_bytes)


def _place_rows(
    widths: list[int], num_slots: int, rank: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, LoraTables]:
    """`rank` rows of each width for each slot, in pages of random order."""
    num_rows = num_slots * rank
    pages, places = [], []
    num_pages = 0
    for width in widths:
        rows_per_page = PAGE_ELEMS // width
        row = torch.arange(num_rows)
        pages.append(num_pages + row // rows_per_page)
        places.append(row % rows_per_page * width)
        num_pages += -(-num_rows // rows_per_page)
    shuffled = torch.randperm(num_pages)[torch.cat(pages)]
    row_offsets = shuffled * PAGE_ELEMS + torch.cat(places)
    module, slot = torch.arange(len(widths)), torch.arange(num_slots)
    starts = module * num_rows + slot[:, None] * rank
    run_starts = starts[:, None, :, None].expand(-1, 1, -1, 2).to(torch.int32).contiguous()
    ranks = torch.full((num_slots, 1, len(widths)), rank, dtype=torch.int32)
    pool = torch.randn(1, num_pages, PAGE_ELEMS, device=device).mul_(0.02).to(dtype)
    tables = LoraTables(row_offsets.to(device), run_starts.to(device), ranks.to(device))
    return pool, tables


def _pairs(
    segments: tuple[int, ...], first_slot: int, max_rank: int, device: torch.device
) -> LoraPairs:
    counts = torch.tensor(segments)
    num_pairs = int(counts.sum())
    slots = first_slot + torch.arange(len(segments))
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return LoraPairs(
        tokens=torch.arange(num_pairs, dtype=torch.int32, device=device),
        slots=slots.repeat_interleave(counts).to(device, torch.int32),
        weights=torch.ones(num_pairs, device=device),
        segment_starts=starts.to(device, torch.int32),
        max_rank=max_rank,
    )
