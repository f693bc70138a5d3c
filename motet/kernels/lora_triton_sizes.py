"""Which block sizes the Triton LoRA kernels take for a shape.

Owns: the classes of shapes, and the lookup. The sizes are in `lora_triton_table.py`, plain data
that `benchmarks/gpu/tune_lora.py` writes.
Does not know: the kernels, nor the device.

A shape belongs to the class with the largest bounds that it reaches, so every shape has one.
"""

from typing import NamedTuple

from motet.kernels.lora_triton_table import EXPAND, SHRINK

RANK_CLASSES = (1, 17, 65)
"""Least max_rank of each class."""
WIDTH_CLASSES = (1, 8192)
"""Least in_features of a shrink, or columns of all siblings of an expand."""
SLOT_PAIR_CLASSES = (1, 9, 65)
"""Least number of pairs where each program finds its tile from the slots (decode)."""
SEGMENT_PAIR_CLASSES = (1, 32, 128)
"""Least mean number of pairs of a segment where tiles are found from the segments (prefill)."""


class Shape(NamedTuple):
    """What the host knows of a launch, and all that its sizes depend on.

    Attributes:
        by_segment: whether tiles are found from the segments, or from the slots.
        max_rank: of the batch.
        pairs: num_pairs; if by_segment, the mean number of pairs of a segment.
        width: in_features of a shrink, or the columns of all siblings of an expand.
    """

    by_segment: bool
    max_rank: int
    pairs: int
    width: int


class ShrinkSizes(NamedTuple):
    """Sizes of `lora_triton_kernels.shrink`. Blocks are powers of two, block_r and block_k from 16.

    Attributes:
        block_t: pairs of a tile.
        block_r: rank rows of a program, of all siblings together.
        block_k: features at a time.
        wanted_programs: the features are divided into parts until there are so many programs.
        num_warps: warps of a program.
        num_stages: blocks of features on their way at once.
    """

    block_t: int
    block_r: int
    block_k: int
    wanted_programs: int
    num_warps: int
    num_stages: int


class ExpandSizes(NamedTuple):
    """Sizes of `lora_triton_kernels.expand`. Blocks are powers of two, block_r and block_n from 16.

    Attributes:
        block_t: pairs of a tile.
        block_r: rank rows at a time.
        block_n: columns of a program.
        num_warps: warps of a program.
        num_stages: blocks of rank rows on their way at once.
    """

    block_t: int
    block_r: int
    block_n: int
    num_warps: int
    num_stages: int


def shrink_sizes(shape: Shape) -> ShrinkSizes:
    """The sizes for a shrink of this shape."""
    return ShrinkSizes(*SHRINK[class_of(shape)])


def expand_sizes(shape: Shape) -> ExpandSizes:
    """The sizes for an expand of this shape."""
    return ExpandSizes(*EXPAND[class_of(shape)])


def class_of(shape: Shape) -> Shape:
    """The least shape of the class of a shape: the key of the table."""
    pair_classes = SEGMENT_PAIR_CLASSES if shape.by_segment else SLOT_PAIR_CLASSES
    return Shape(
        shape.by_segment,
        _largest_up_to(shape.max_rank, RANK_CLASSES),
        _largest_up_to(shape.pairs, pair_classes),
        _largest_up_to(shape.width, WIDTH_CLASSES),
    )


def all_classes() -> list[Shape]:
    """Every key that a table must have."""
    return [
        Shape(by_segment, max_rank, pairs, width)
        for by_segment, pair_classes in ((False, SLOT_PAIR_CLASSES), (True, SEGMENT_PAIR_CLASSES))
        for max_rank in RANK_CLASSES
        for pairs in pair_classes
        for width in WIDTH_CLASSES
    ]


def _largest_up_to(value: int, bounds: tuple[int, ...]) -> int:
    return max(bound for bound in bounds if bound <= value)
