"""The table of block sizes has an answer for every shape, and it can be launched."""

from hypothesis import given
from hypothesis import strategies as st

from motet.kernels import lora_triton_table as table
from motet.kernels.lora_triton_sizes import (
    Shape,
    all_classes,
    class_of,
    expand_sizes,
    shrink_sizes,
)

SHAPES = st.builds(
    Shape,
    by_segment=st.booleans(),
    max_rank=st.integers(1, 1024),
    pairs=st.integers(1, 100_000),
    width=st.integers(1, 200_000),
)


def test_both_tables_have_exactly_the_classes() -> None:
    assert set(table.SHRINK) == set(all_classes())
    assert set(table.EXPAND) == set(all_classes())


@given(SHAPES)
def test_every_shape_has_sizes_that_triton_takes(shape: Shape) -> None:
    shrink, expand = shrink_sizes(shape), expand_sizes(shape)
    blocks = (*shrink[:3], *expand[:3], shrink.num_warps, expand.num_warps)
    assert all(size & (size - 1) == 0 for size in blocks)
    assert min(shrink.block_r, shrink.block_k, expand.block_r, expand.block_n) >= 16
    assert min(shrink.wanted_programs, shrink.num_stages, expand.num_stages) >= 1


@given(SHAPES)
def test_the_least_shape_of_a_class_is_in_it(shape: Shape) -> None:
    least = class_of(shape)
    assert class_of(least) == least
    assert all(bound <= value for bound, value in zip(least, shape, strict=True))


def test_a_bound_belongs_to_the_class_above_it() -> None:
    assert class_of(Shape(False, 16, 8, 8191)) == Shape(False, 1, 1, 1)
    assert class_of(Shape(False, 17, 9, 8192)) == Shape(False, 17, 9, 8192)
    assert class_of(Shape(True, 65, 128, 8192)) == Shape(True, 65, 128, 8192)
