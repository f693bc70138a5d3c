"""Tokens of several adapters: rounds of pairs, and pairs for some of the projections alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motet.kernels import lora_reference, lora_triton
from motet.kernels.lora_triton_sizes import ExpandSizes, ShrinkSizes
from motet.kernels.types import LoraPairs, Projection, Round
from tests.kernels.conftest import SetSizes
from tests.kernels.lora_cases import LoraCase, build_case
from tests.kernels.test_lora import (
    DOWN,
    LAYER,
    MODULES,
    NUM_LAYERS,
    QKV,
    random_ranks,
    to_device,
)
from tests.kernels.test_lora_triton import DEVICE, DTYPES

pytestmark = pytest.mark.usefixtures("poisoned_memory", "few_programs")

NUM_SLOTS = 4


@pytest.fixture
def few_programs(set_sizes: SetSizes) -> None:
    """Large blocks: the interpreter takes as long for a small one."""
    set_sizes(ShrinkSizes(16, 64, 64, 1, 4, 2), ExpandSizes(16, 32, 64, 4, 2))


def draw(generator: torch.Generator, bound: int) -> int:
    return int(torch.randint(bound, (), generator=generator))


def random_rounds(
    generator: torch.Generator,
    num_tokens: int,
    num_rounds: int,
    num_siblings: int,
    *,
    masked: bool,
    one_segment_each: bool,
) -> LoraPairs:
    """In each round, a pair for most projections of most tokens but the last."""
    pairs: list[tuple[int, int, int]] = []  # (token, slot, mask)
    segment_starts, rounds = [], []
    for _ in range(num_rounds):
        rounds.append(Round(len(segment_starts), len(pairs)))
        of_round: list[tuple[int, int, int]] = []
        for token in range(num_tokens - 1):
            if not masked:
                of_round += [(token, draw(generator, NUM_SLOTS), 0)] * (draw(generator, 4) > 0)
                continue
            taken = draw(generator, 1 << num_siblings)
            left = (1 << num_siblings) - 1 - taken
            of_round += [(token, draw(generator, NUM_SLOTS), mask) for mask in (taken, left)]
        of_round.sort(key=lambda pair: pair[1:])
        for i, pair in enumerate(of_round):
            if one_segment_each or i == 0 or pair[1:] != of_round[i - 1][1:]:
                segment_starts.append(len(pairs) + i)
        pairs += of_round

    def column(i: int) -> torch.Tensor:
        return torch.tensor([pair[i] for pair in pairs], dtype=torch.int32)

    return LoraPairs(
        tokens=column(0),
        slots=column(1),
        weights=4 * torch.rand(len(pairs), generator=generator) - 2,
        segment_starts=torch.tensor([*segment_starts, len(pairs)], dtype=torch.int32),
        max_rank=20,
        siblings=column(2) if masked else None,
        rounds=tuple(rounds),
    )


def assert_matches(
    case: LoraCase,
    pairs: LoraPairs,
    num_tokens: int,
    projections: tuple[Projection, ...],
    generator: torch.Generator,
) -> None:
    """Against the reference in float64; tokens without a pair are neither read nor written."""
    dtype = case.pool.dtype
    in_features = MODULES[projections[0].module].in_features
    out_features = sum(p.out_features for p in projections)
    is_paired = torch.zeros(num_tokens, dtype=torch.bool)
    is_paired[pairs.tokens.long()] = True
    x = torch.randn(num_tokens, in_features, generator=generator).to(dtype)
    x[~is_paired] = torch.nan
    before = torch.randn(num_tokens, out_features, generator=generator).to(dtype)
    where = (LAYER, projections)
    expected = before.double()
    v = lora_reference.shrink(x.double(), case.pool.double(), case.tables, pairs, *where)
    lora_reference.expand(v, case.pool.double(), case.tables, pairs, *where, expected)

    pool, tables, there = to_device(case, pairs, DEVICE)
    if pairs.siblings is not None:
        there = replace(there, siblings=pairs.siblings.to(DEVICE))
    y = before.to(DEVICE)
    v = lora_triton.shrink(x.to(DEVICE), pool, tables, there, *where)
    lora_triton.expand(v, pool, tables, there, *where, y)
    # Each round rounds y once more.
    tolerance = max(2e-5, 4 * torch.finfo(dtype).eps * len(pairs.rounds))
    torch.testing.assert_close(y.cpu().double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(y.cpu()[~is_paired], before[~is_paired])


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**31),
    num_tokens=st.integers(1, 9),
    num_rounds=st.integers(1, 4),
    masked=st.booleans(),
    one_segment_each=st.booleans(),
    projections=st.sampled_from([QKV, DOWN]),
    dtype=st.sampled_from(DTYPES),
)
def test_any_rounds(
    seed: int,
    num_tokens: int,
    num_rounds: int,
    masked: bool,
    one_segment_each: bool,
    projections: tuple[Projection, ...],
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ranks = random_ranks(generator, NUM_SLOTS, (0, 1, 20))
    case = build_case(
        generator, MODULES, ranks, num_slots=NUM_SLOTS, num_layers=NUM_LAYERS, dtype=dtype
    )
    pairs = random_rounds(
        generator,
        num_tokens,
        num_rounds,
        len(projections),
        masked=masked,
        one_segment_each=one_segment_each,
    )
    assert_matches(case, pairs, num_tokens, projections, generator)


@pytest.mark.parametrize("one_segment_each", [False, True])
def test_eight_adapters_on_every_token(one_segment_each: bool) -> None:
    generator = torch.Generator()
    print(f"seed {generator.seed()}")
    num_tokens = 5
    ranks = random_ranks(generator, 8, (0, 2, 7, 20))
    case = build_case(generator, MODULES, ranks, num_slots=8, num_layers=NUM_LAYERS)
    starts = range(0, 8 * num_tokens + 1, 1 if one_segment_each else num_tokens)
    pairs = LoraPairs(
        tokens=torch.arange(num_tokens, dtype=torch.int32).repeat(8),
        slots=torch.arange(8, dtype=torch.int32).repeat_interleave(num_tokens),
        weights=torch.randn(8 * num_tokens, generator=generator),
        segment_starts=torch.tensor(starts, dtype=torch.int32),
        max_rank=20,
        rounds=tuple(
            Round(r * (num_tokens if one_segment_each else 1), r * num_tokens) for r in range(8)
        ),
    )
    assert_matches(case, pairs, num_tokens, QKV, generator)


def test_the_same_slot_in_neighbouring_rounds_is_not_one_run() -> None:
    """The last pairs of a round and the first of the next are of one adapter, in one window."""
    generator = torch.Generator().manual_seed(1)
    case = build_case(
        generator, MODULES, random_ranks(generator, 1, (3,)), num_slots=1, num_layers=NUM_LAYERS
    )
    pairs = LoraPairs(
        tokens=torch.tensor([0, 1, 0, 1, 2], dtype=torch.int32),
        slots=torch.zeros(5, dtype=torch.int32),
        weights=torch.randn(5, generator=generator),
        segment_starts=torch.arange(6, dtype=torch.int32),
        max_rank=3,
        rounds=(Round(0, 0), Round(2, 2)),
    )
    assert_matches(case, pairs, 4, QKV, generator)
