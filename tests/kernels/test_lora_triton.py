"""What is particular to the Triton kernels of LoRA: tiles, parts of v, groups by slot.

That they compute what they should is in `test_lora.py` too. Memory that they allocate is NaN here,
so that a part of v which nobody wrote shows.
"""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motet.kernels import lora_triton
from motet.kernels.lora_triton_sizes import ExpandSizes, ShrinkSizes
from motet.kernels.types import LoraPairs, Projection
from tests.kernels.conftest import SetSizes
from tests.kernels.lora_cases import Widths, build_case, build_pairs
from tests.kernels.test_lora import (
    DOWN,
    GATE_UP,
    HAS_GPU,
    HIDDEN,
    KV,
    LAYER,
    MODULES,
    NUM_LAYERS,
    QKV,
    assert_matches,
    random_ranks,
    to_device,
)

DEVICE = "cuda" if HAS_GPU else "cpu"
DTYPES = (torch.float32, torch.float16) + (torch.bfloat16,) * HAS_GPU
SHRINK = ShrinkSizes(16, 16, 16, 1, 4, 2)
EXPAND = ExpandSizes(16, 16, 16, 4, 2)

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def one_segment_each(pairs: LoraPairs) -> LoraPairs:
    """As in a captured step, where the number of segments must not depend on the adapters."""
    starts = torch.arange(pairs.num_pairs + 1, dtype=torch.int32)
    return dataclasses.replace(pairs, segment_starts=starts)


def with_slots(generator: torch.Generator, slots: list[int], max_rank: int) -> LoraPairs:
    """A pair for each of these slots, in this order, each a segment of its own."""
    pairs = build_pairs(generator, len(slots) + 2, [(0, len(slots))], max_rank)
    pairs = dataclasses.replace(pairs, slots=torch.tensor(slots, dtype=torch.int32))
    return one_segment_each(pairs)


@pytest.mark.parametrize("block_t", [16, 32, 64, 128])
@pytest.mark.parametrize("counts", [(70, 1, 5), (3, 16, 17)])
def test_tiles_of_every_size(set_sizes: SetSizes, block_t: int, counts: tuple[int, ...]) -> None:
    set_sizes(SHRINK._replace(block_t=block_t), EXPAND._replace(block_t=block_t))
    generator = torch.Generator().manual_seed(block_t)
    ranks = random_ranks(generator, 3, (0, 3, 40))
    case = build_case(generator, MODULES, ranks, num_slots=3, num_layers=NUM_LAYERS)
    pairs = build_pairs(generator, 90, list(enumerate(counts)), max_rank=40)
    assert_matches(lora_triton, case, pairs, QKV, 90, generator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shrink", "expand"),
    [
        (SHRINK._replace(block_r=64, block_k=32), EXPAND._replace(block_r=64, block_n=64)),
        (SHRINK._replace(block_r=32, block_k=128), EXPAND._replace(block_r=32, block_n=32)),
    ],
)
def test_blocks_larger_and_smaller_than_what_there_is(
    set_sizes: SetSizes, dtype: torch.dtype, shrink: ShrinkSizes, expand: ExpandSizes
) -> None:
    set_sizes(shrink, expand)
    generator = torch.Generator().manual_seed(shrink.block_r)
    ranks = random_ranks(generator, 4, (0, 2, 16, 33))
    case = build_case(generator, MODULES, ranks, num_slots=4, num_layers=NUM_LAYERS, dtype=dtype)
    pairs = build_pairs(generator, 12, [(0, 4), (1, 1), (3, 5)], max_rank=33)
    assert_matches(lora_triton, case, pairs, QKV, 12, generator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wanted_programs", [1, 3, 9, 1000])
@pytest.mark.parametrize(
    ("projections", "block_k", "most_parts"),
    [(QKV, 16, 3), (QKV, 32, 2), (GATE_UP, 16, 3), (DOWN, 16, 5), (DOWN, 32, 3)],
    ids=["qkv 16", "qkv 32", "gate and up", "down 16", "down 32"],
)
def test_features_in_parts(
    set_sizes: SetSizes,
    dtype: torch.dtype,
    wanted_programs: int,
    projections: tuple[Projection, ...],
    block_k: int,
    most_parts: int,
) -> None:
    set_sizes(SHRINK._replace(block_k=block_k, wanted_programs=wanted_programs), EXPAND)
    generator = torch.Generator().manual_seed(wanted_programs)
    ranks = random_ranks(generator, 1, (3, 17))
    case = build_case(generator, MODULES, ranks, num_slots=1, num_layers=NUM_LAYERS, dtype=dtype)
    pairs = build_pairs(generator, 3, [(0, 1)], max_rank=20)
    assert_matches(lora_triton, case, pairs, projections, 3, generator)
    pool, tables, there = to_device(case, pairs, DEVICE)
    x = torch.ones(3, MODULES[projections[0].module].in_features, dtype=dtype, device=DEVICE)
    v = lora_triton.shrink(x, pool, tables, there, LAYER, projections)
    assert v.shape[0] == (1 if wanted_programs == 1 else min(v.shape[0], most_parts))
    assert v.shape[0] == most_parts or wanted_programs < 1000


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_of_long_segments(set_sizes: SetSizes, dtype: torch.dtype) -> None:
    set_sizes(SHRINK._replace(wanted_programs=1000), EXPAND)
    generator = torch.Generator().manual_seed(6)
    ranks = random_ranks(generator, 2, (0, 5, 16))
    case = build_case(generator, MODULES, ranks, num_slots=2, num_layers=NUM_LAYERS, dtype=dtype)
    pairs = build_pairs(generator, 60, [(0, 35), (1, 20)], max_rank=16)
    assert_matches(lora_triton, case, pairs, QKV, 60, generator)


@pytest.mark.parametrize("block_t", [1, 4, 16])
def test_slots_without_segments(set_sizes: SetSizes, block_t: int) -> None:
    set_sizes(SHRINK._replace(block_t=block_t), EXPAND._replace(block_t=block_t))
    generator = torch.Generator().manual_seed(block_t)
    ranks = random_ranks(generator, 4, (0, 3, 18))
    case = build_case(generator, MODULES, ranks, num_slots=4, num_layers=NUM_LAYERS)
    # Runs within a tile, across tiles, of whole tiles, and one that comes back.
    slots = [0, 0, 1, 1, 1, 1, 1, 2, *[3] * 20, 0, 0, 2]
    assert_matches(
        lora_triton, case, with_slots(generator, slots, 18), QKV, len(slots) + 2, generator
    )


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**31),
    slots=st.lists(st.integers(0, 3), min_size=1, max_size=24),
    block_t=st.sampled_from([1, 2, 4, 16]),
    wanted_programs=st.integers(1, 200),
    max_rank=st.integers(1, 20),
    dtype=st.sampled_from(DTYPES),
)
def test_any_decode_batch(
    set_sizes: SetSizes,
    seed: int,
    slots: list[int],
    block_t: int,
    wanted_programs: int,
    max_rank: int,
    dtype: torch.dtype,
) -> None:
    set_sizes(
        SHRINK._replace(block_t=block_t, wanted_programs=wanted_programs),
        EXPAND._replace(block_t=block_t),
    )
    generator = torch.Generator().manual_seed(seed)
    ranks = random_ranks(generator, 4, (0, 1, max_rank))
    case = build_case(generator, MODULES, ranks, num_slots=4, num_layers=NUM_LAYERS, dtype=dtype)
    pairs = with_slots(generator, slots, max_rank)
    assert_matches(lora_triton, case, pairs, QKV, len(slots) + 2, generator)


@pytest.mark.parametrize("slots", [[1] * 19, [0, 0, 0, 1, 1], [0, 1, 0, 1]])
def test_a_slot_without_rank_rows_is_neither_read_nor_written(slots: list[int]) -> None:
    generator = torch.Generator().manual_seed(len(slots))
    ranks = {(0, LAYER, p.module): 4 for p in QKV}
    case = build_case(generator, MODULES, ranks, num_slots=2, num_layers=NUM_LAYERS)
    pairs = with_slots(generator, slots, 4)
    pairs = dataclasses.replace(pairs, weights=torch.ones(len(slots)))
    num_tokens = len(slots) + 2
    assert_matches(lora_triton, case, pairs, QKV, num_tokens, generator)

    pool, tables, there = to_device(case, pairs, DEVICE)
    is_empty = torch.tensor(slots) == 1
    x = torch.randn(num_tokens, HIDDEN, generator=generator)
    x[pairs.tokens[is_empty].long()] = torch.nan
    y = torch.full((num_tokens, HIDDEN + 2 * KV), -0.0)  # with 0.0 added it would be 0.0
    x, y = x.to(DEVICE), y.to(DEVICE)
    v = lora_triton.shrink(x, pool, tables, there, LAYER, QKV)
    assert v[:, is_empty].isnan().all()
    assert not v[:, ~is_empty].isnan().any()
    lora_triton.expand(v, pool, tables, there, LAYER, QKV, y)
    y = y.cpu()
    assert (y.signbit() & (y == 0))[pairs.tokens[is_empty].long()].all()
    assert (y != 0)[pairs.tokens[~is_empty].long()].all()


def test_v_of_16_bits_is_not_rounded_to_16_bits() -> None:
    generator = torch.Generator().manual_seed(1)
    case = build_case(
        generator, [Widths(16, 16)], {(0, 0, 0): 2}, num_slots=1, num_layers=1, dtype=torch.float16
    )
    flat, offsets = case.pool.view(-1), case.tables.row_offsets
    start = int(case.tables.run_starts[0, 0, 0, 1])
    for sign, offset in zip((1, -1), offsets[start : start + 2].tolist(), strict=True):
        flat[offset : offset + 16] = sign
    pool, tables, pairs = to_device(case, with_slots(generator, [0], 2), DEVICE)
    v = torch.tensor([1 + 2**-15, 1.0], device=DEVICE).view(1, 1, 1, 2)
    y = torch.zeros(3, 16, dtype=torch.float16, device=DEVICE)
    one = (Projection(0, 0, 16),)
    lora_triton.expand(v, pool, tables, pairs, 0, one, y)
    row = y[int(pairs.tokens[0])].float()
    torch.testing.assert_close(row, pairs.weights * torch.full_like(row, 2**-15), rtol=1e-3, atol=0)
