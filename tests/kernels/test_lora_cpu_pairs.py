"""Tokens with several pairs, and pairs for some siblings alone, on a CPU, against the reference."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from motet.kernels import lora_cpu, lora_reference
from motet.kernels.types import LoraPairs, Projection, Round
from tests.kernels.cpu_cases import HALF_UNIT, thread_counts, threads
from tests.kernels.lora_cases import LoraCase, Widths, build_case

NUM_LAYERS, LAYER = 2, 1
NUM_SLOTS = 9
WIDE = (Widths(576, 576), Widths(576, 192), Widths(576, 192))  # worth dividing among threads
NARROW = (Widths(48, 48), Widths(48, 16), Widths(48, 16))
ODD = (Widths(45, 33), Widths(45, 7), Widths(45, 19))  # no whole number of vectors


def projections_of(modules: tuple[Widths, ...]) -> tuple[Projection, ...]:
    starts = [sum(each.out_features for each in modules[:i]) for i in range(len(modules))]
    return tuple(Projection(i, starts[i], each.out_features) for i, each in enumerate(modules))


def random_case(
    generator: torch.Generator, modules: tuple[Widths, ...], dtype: torch.dtype
) -> LoraCase:
    ranks = {
        (slot, LAYER, module): int(torch.randint(34, (), generator=generator))
        for slot in range(NUM_SLOTS)
        for module in range(len(modules))
    }
    return build_case(
        generator, modules, ranks, num_slots=NUM_SLOTS, num_layers=NUM_LAYERS, dtype=dtype
    )


def random_pairs(
    generator: torch.Generator, num_tokens: int, num_rounds: int, *, has_siblings: bool
) -> LoraPairs:
    """In each round most tokens have a pair, of a random slot, for some random siblings."""

    def draw(high: int, size: int) -> Tensor:
        return torch.randint(high, (size,), generator=generator)

    tokens, slots, siblings, starts, rounds = [], [], [], [0], []
    num_pairs = 0
    for _ in range(num_rounds):
        rounds.append(Round(len(starts) - 1, num_pairs))
        used = torch.randperm(num_tokens, generator=generator)[: max(1, num_tokens * 4 // 5)]
        keys = draw(NUM_SLOTS, len(used)) * 8 + (1 + draw(7, len(used)) if has_siblings else 7)
        keys, order = keys.sort()
        tokens.append(used[order])
        slots.append(keys // 8)
        siblings.append(keys % 8)
        for count in keys.unique_consecutive(return_counts=True)[1].tolist():
            num_pairs += count
            starts.append(num_pairs)
    starts.append(num_pairs)  # a last, empty segment
    return LoraPairs(
        tokens=torch.cat(tokens).int(),
        slots=torch.cat(slots).int(),
        weights=4 * torch.rand(num_pairs, generator=generator) - 2,
        segment_starts=torch.tensor(starts, dtype=torch.int32),
        max_rank=37,
        siblings=torch.cat(siblings).int() if has_siblings else None,
        rounds=tuple(rounds),
    )


def run(
    case: LoraCase, pairs: LoraPairs, x: Tensor, projections: tuple[Projection, ...], y: Tensor
) -> tuple[Tensor, Tensor]:
    """v, and y with what was added to it."""
    y = y.clone()
    v = lora_cpu.shrink(x, case.pool, case.tables, pairs, LAYER, projections)
    lora_cpu.expand(v, case.pool, case.tables, pairs, LAYER, projections, y)
    return v, y


@pytest.fixture(autouse=True)
def fresh_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # which has torch fill what it allocates
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("has_siblings", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 3, 40, 600])
@pytest.mark.parametrize(
    ("modules", "dtype"),
    [(WIDE, torch.float32), (NARROW, torch.float32), (ODD, torch.float32), (ODD, torch.bfloat16)],
    ids=["wide", "narrow", "odd", "odd-bfloat16"],
)
def test_against_the_reference(
    modules: tuple[Widths, ...], dtype: torch.dtype, num_tokens: int, has_siblings: bool
) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    case = random_case(generator, modules, dtype)
    pairs = random_pairs(generator, num_tokens, 3, has_siblings=has_siblings)
    projections = projections_of(modules)
    x = torch.randn(num_tokens, modules[0].in_features, generator=generator).to(dtype)
    y = torch.randn(num_tokens, sum(w.out_features for w in modules), generator=generator)
    y = y.to(dtype)
    exact = y.double()
    pool = case.pool.double()
    exact_v = lora_reference.shrink(x.double(), pool, case.tables, pairs, LAYER, projections)
    lora_reference.expand(exact_v, pool, case.tables, pairs, LAYER, projections, exact)
    v, actual = run(case, pairs, x, projections, y)
    is_defined = ~exact_v.isnan()
    torch.testing.assert_close(v.double()[is_defined], exact_v[is_defined], rtol=1e-5, atol=1e-5)
    unit = HALF_UNIT if dtype == torch.float32 else 2.0**-8
    torch.testing.assert_close(actual.double(), exact, rtol=64 * unit, atol=64 * unit)


@pytest.mark.parametrize("has_siblings", [False, True])
def test_the_number_of_threads_changes_no_bit(has_siblings: bool) -> None:
    generator = torch.Generator().manual_seed(8)
    case = random_case(generator, WIDE, torch.float32)
    pairs = random_pairs(generator, 100, 3, has_siblings=has_siblings)
    x = torch.randn(100, 576, generator=generator)
    y = torch.randn(100, 960, generator=generator)
    results = []
    for counts in thread_counts():
        with threads(*counts):
            results.append(run(case, pairs, x, projections_of(WIDE), y)[1])
    assert all(torch.equal(each, results[0]) for each in results)


def test_one_projection_that_all_threads_share() -> None:
    """Threads with a part of a projection's columns only, or with none."""
    generator = torch.Generator().manual_seed(9)
    modules = (Widths(576, 16), Widths(576, 16), Widths(576, 2048))
    ranks = {(slot, LAYER, 2): 32 for slot in range(NUM_SLOTS)} | {(0, LAYER, 0): 3}
    case = build_case(generator, modules, ranks, num_slots=NUM_SLOTS, num_layers=NUM_LAYERS)
    pairs = random_pairs(generator, 50, 2, has_siblings=False)
    x = torch.randn(50, 576, generator=generator)
    exact = torch.zeros(50, 2080, dtype=torch.float64)
    v = lora_cpu.shrink(x, case.pool, case.tables, pairs, LAYER, projections_of(modules))
    lora_reference.expand(
        v, case.pool.double(), case.tables, pairs, LAYER, projections_of(modules), exact
    )
    for counts in thread_counts():
        with threads(*counts):
            _, actual = run(case, pairs, x, projections_of(modules), torch.zeros(50, 2080))
        torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-5)


def test_siblings_that_would_read_foreign_memory_are_refused() -> None:
    generator = torch.Generator().manual_seed(10)
    case = random_case(generator, NARROW, torch.float32)
    pairs = random_pairs(generator, 4, 1, has_siblings=True)
    assert pairs.siblings is not None
    for wrong, message in ((pairs.siblings.long(), "int32"), (pairs.siblings[:1], "an entry")):
        broken = LoraPairs(
            pairs.tokens, pairs.slots, pairs.weights, pairs.segment_starts, 37, siblings=wrong
        )
        with pytest.raises(AssertionError, match=message):
            run(case, broken, torch.zeros(4, 48), projections_of(NARROW), torch.zeros(4, 80))
