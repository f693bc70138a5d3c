"""Shrink and expand of every backend against float64 from the dense matrices."""

import dataclasses
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motet.kernels import lora_cpu, lora_reference, lora_triton
from motet.kernels.types import LoraPairs, LoraTables, Projection
from tests.kernels.lora_cases import (
    LoraCase,
    Ranks,
    Widths,
    build_case,
    build_pairs,
    expected_expand,
    expected_shrink,
)

HIDDEN, KV, INTERMEDIATE = 48, 16, 80
MODULES = (
    Widths(HIDDEN, HIDDEN),
    Widths(HIDDEN, KV),
    Widths(HIDDEN, KV),
    Widths(HIDDEN, HIDDEN),
    Widths(HIDDEN, INTERMEDIATE),
    Widths(HIDDEN, INTERMEDIATE),
    Widths(INTERMEDIATE, HIDDEN),
)
QKV = (Projection(0, 0, HIDDEN), Projection(1, HIDDEN, KV), Projection(2, HIDDEN + KV, KV))
GATE_UP = (Projection(4, 0, INTERMEDIATE), Projection(5, INTERMEDIATE, INTERMEDIATE))
DOWN = (Projection(6, 0, HIDDEN),)
RANKS = (0, 1, 3, 8, 21)
NUM_LAYERS, LAYER = 2, 1

HAS_GPU = torch.cuda.is_available()
BACKENDS = [
    pytest.param(module, dtype, id=f"{module.__name__.rsplit('_', 1)[1]}-{str(dtype)[6:]}")
    for module, dtypes in (
        (lora_reference, (torch.float64, torch.float32, torch.bfloat16, torch.float16)),
        (lora_cpu, (torch.float32, torch.bfloat16, torch.float16)),
        # Triton's interpreter computes with numpy, which has no bfloat16.
        (lora_triton, (torch.float32, torch.float16) + (torch.bfloat16,) * HAS_GPU),
    )
    for dtype in dtypes
]
SEGMENTS = {
    "no pairs": [],
    "one token": [(2, 1)],
    "one adapter": [(1, 23)],
    "two tokens each": [(slot, 2) for slot in range(5)],
    "short and long": [(0, 1), (1, 66), (3, 5), (4, 1)],
}


def random_ranks(generator: torch.Generator, num_slots: int, choices: tuple[int, ...]) -> Ranks:
    """A rank drawn for each slot, layer and module on its own."""
    keys = [
        (slot, layer, module)
        for slot in range(num_slots)
        for layer in range(NUM_LAYERS)
        for module in range(len(MODULES))
    ]
    drawn = torch.randint(len(choices), (len(keys),), generator=generator).tolist()
    return {key: choices[i] for key, i in zip(keys, drawn, strict=True)}


def to_device(
    case: LoraCase, pairs: LoraPairs, device: str
) -> tuple[Tensor, LoraTables, LoraPairs]:
    """Pool, tables and pairs where the kernels want them."""
    moved = {
        name: value.to(device)
        for name in ("tokens", "slots", "weights", "segment_starts")
        if isinstance(value := getattr(pairs, name), Tensor)
    }
    tables = LoraTables(
        case.tables.row_offsets.to(device),
        case.tables.run_starts.to(device),
        case.tables.ranks.to(device),
    )
    return case.pool.to(device), tables, dataclasses.replace(pairs, **moved)


def assert_matches(
    kernels: ModuleType,
    case: LoraCase,
    pairs: LoraPairs,
    projections: tuple[Projection, ...],
    num_tokens: int,
    generator: torch.Generator,
    spare_columns: int = 3,
) -> None:
    """Run shrink and expand; compare every number, and what must not have been touched."""
    device = "cuda" if HAS_GPU and kernels is lora_triton else "cpu"
    pool, tables, there = to_device(case, pairs, device)
    dtype = case.pool.dtype
    in_features = case.modules[projections[0].module].in_features
    is_paired = torch.zeros(num_tokens, dtype=torch.bool)
    is_paired[pairs.tokens.long()] = True

    x = torch.randn(num_tokens, in_features, generator=generator).to(dtype)
    x[~is_paired] = torch.nan  # nobody may read it
    v = kernels.shrink(x.to(device), pool, tables, there, LAYER, projections)
    expected_v = expected_shrink(case, x, pairs, LAYER, projections)
    assert v.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert v.shape[1:] == expected_v.shape
    is_defined = ~expected_v.isnan()
    whole_v = v.cpu().double().sum(0)
    torch.testing.assert_close(whole_v[is_defined], expected_v[is_defined], rtol=1e-5, atol=1e-5)

    v[:, ~is_defined.to(device)] = torch.nan  # nor that
    out_features = sum(p.out_features for p in projections)
    wide = torch.full((num_tokens, out_features + spare_columns), torch.nan, dtype=dtype)
    wide[:, :out_features] = torch.randn(num_tokens, out_features, generator=generator)
    before = wide.clone()
    wide = wide.to(device)
    kernels.expand(v, pool, tables, there, LAYER, projections, wide[:, :out_features])
    after = wide.cpu()
    expected_y = expected_expand(case, whole_v, pairs, LAYER, projections, before[:, :out_features])
    tolerance = max(1e-5, 4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(
        after[:, :out_features].double(), expected_y, rtol=tolerance, atol=tolerance
    )
    assert after[:, out_features:].isnan().all(), "columns beside the projections were written"
    assert torch.equal(after[~is_paired, :out_features], before[~is_paired, :out_features])


@pytest.mark.parametrize(("kernels", "dtype"), BACKENDS)
@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS.keys())
def test_segments(kernels: ModuleType, dtype: torch.dtype, segments: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(len(segments))
    ranks = random_ranks(generator, 5, RANKS)
    case = build_case(generator, MODULES, ranks, num_slots=5, num_layers=NUM_LAYERS, dtype=dtype)
    num_tokens = sum(count for _, count in segments) + 6
    pairs = build_pairs(generator, num_tokens, segments, max_rank=max(RANKS))
    assert_matches(kernels, case, pairs, QKV, num_tokens, generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cpu_long_segments_of_adjacent_tokens(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(9)
    ranks = random_ranks(generator, 3, RANKS)
    case = build_case(generator, MODULES, ranks, num_slots=3, num_layers=NUM_LAYERS, dtype=dtype)
    segments = [(0, 80), (1, 64), (2, 63)]
    pairs = build_pairs(generator, 210, segments, max(RANKS), adjacent_tokens=True)
    for projections in (QKV, GATE_UP, DOWN):
        assert_matches(lora_cpu, case, pairs, projections, 210, generator)


@pytest.mark.parametrize(("kernels", "dtype"), BACKENDS)
@pytest.mark.parametrize("projections", [GATE_UP, DOWN], ids=["gate and up", "down"])
def test_ranks_from_1_to_130_in_one_batch(
    kernels: ModuleType, dtype: torch.dtype, projections: tuple[Projection, ...]
) -> None:
    generator = torch.Generator().manual_seed(130)
    ranks = {
        (slot, LAYER, p.module): (1, 3, 64, 130)[(slot + s) % 4]
        for slot in range(4)
        for s, p in enumerate(projections)
    }
    case = build_case(generator, MODULES, ranks, num_slots=4, num_layers=NUM_LAYERS, dtype=dtype)
    pairs = build_pairs(generator, 7, [(slot, 1) for slot in range(4)], max_rank=130)
    assert_matches(kernels, case, pairs, projections, 7, generator)


@pytest.mark.parametrize(("kernels", "dtype"), BACKENDS)
def test_32_adapters_of_one_token_each_with_room_above_their_ranks(
    kernels: ModuleType, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(32)
    ranks = random_ranks(generator, 32, (0, 1, 2, 5))
    case = build_case(generator, MODULES, ranks, num_slots=32, num_layers=NUM_LAYERS, dtype=dtype)
    pairs = build_pairs(generator, 40, [(slot, 1) for slot in range(32)], max_rank=11)
    assert_matches(kernels, case, pairs, QKV, 40, generator)


@pytest.mark.parametrize(("kernels", "dtype"), BACKENDS)
@pytest.mark.parametrize("count", [2, 20])
def test_rows_that_start_at_multiples_of_sixteen_bytes(
    kernels: ModuleType, dtype: torch.dtype, count: int
) -> None:
    generator = torch.Generator().manual_seed(count)
    ranks = random_ranks(generator, 3, (3, 17))
    case = build_case(
        generator, MODULES, ranks, num_slots=3, num_layers=NUM_LAYERS, dtype=dtype, page_elems=160
    )
    assert (case.tables.row_offsets % 8 == 0).all()
    pairs = build_pairs(generator, 3 * count, [(s, count) for s in range(3)], max_rank=17)
    assert_matches(kernels, case, pairs, QKV, 3 * count, generator, spare_columns=8)


@pytest.mark.parametrize(("kernels", "dtype"), BACKENDS)
def test_an_adapter_that_touches_nothing_here_changes_nothing(
    kernels: ModuleType, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(5)
    ranks = {(0, 0, 0): 4, (1, LAYER, 6): 4}
    case = build_case(generator, MODULES, ranks, num_slots=2, num_layers=NUM_LAYERS, dtype=dtype)
    pairs = build_pairs(generator, 8, [(0, 3), (1, 2)], max_rank=4)
    y = torch.randn(8, HIDDEN + 2 * KV, generator=generator).to(dtype)
    before = y.clone()
    device = "cuda" if HAS_GPU and kernels is lora_triton else "cpu"
    pool, tables, pairs = to_device(case, pairs, device)
    y = y.to(device)
    v = kernels.shrink(y[:, :HIDDEN].contiguous(), pool, tables, pairs, LAYER, QKV)
    kernels.expand(v, pool, tables, pairs, LAYER, QKV, y)
    assert torch.equal(y.cpu(), before)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    in_features=st.integers(1, 70),
    out_features=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    counts=st.lists(st.sampled_from([0, 1, 2, 9, 64, 65]), min_size=1, max_size=5),
)
def test_cpu_on_any_shape(
    seed: int, in_features: int, out_features: list[int], counts: list[int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    modules = [Widths(in_features, width) for width in out_features]
    ranks = {
        (slot, layer, module): int(torch.randint(12, (), generator=generator))
        for slot in range(len(counts))
        for layer in range(NUM_LAYERS)
        for module in range(len(modules))
    }
    num_slots, num_tokens = len(counts), sum(counts) + 1
    case = build_case(generator, modules, ranks, num_slots=num_slots, num_layers=NUM_LAYERS)
    pairs = build_pairs(generator, num_tokens, list(enumerate(counts)), max_rank=12)
    starts = [sum(out_features[:i]) for i in range(len(modules))]
    projections = tuple(Projection(i, starts[i], width) for i, width in enumerate(out_features))
    assert_matches(lora_cpu, case, pairs, projections, num_tokens, generator)


@pytest.fixture
def large_case() -> tuple[LoraCase, LoraPairs, Tensor, torch.Generator]:
    """Enough work for the CPU kernels to divide among threads."""
    generator = torch.Generator().manual_seed(7)
    modules = [Widths(576, 576), Widths(576, 192), Widths(576, 192)]
    choices = (0, 5, 16, 33)
    ranks = {
        (slot, LAYER, module): choices[int(torch.randint(4, (), generator=generator))]
        for slot in range(24)
        for module in range(3)
    }
    case = build_case(generator, modules, ranks, num_slots=24, num_layers=NUM_LAYERS)
    segments = [(slot, 1 + slot % 3) for slot in range(24)]
    pairs = build_pairs(generator, 60, segments, max_rank=33)
    return case, pairs, torch.randn(60, 576, generator=generator), generator


LARGE_QKV = (Projection(0, 0, 576), Projection(1, 576, 192), Projection(2, 768, 192))


def test_cpu_threads_share_the_work(
    large_case: tuple[LoraCase, LoraPairs, Tensor, torch.Generator],
) -> None:
    case, pairs, _, generator = large_case
    assert_matches(lora_cpu, case, pairs, LARGE_QKV, 60, generator)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.usefixtures("restored_threads")
def test_cpu_results_do_not_depend_on_the_number_of_threads(
    large_case: tuple[LoraCase, LoraPairs, Tensor, torch.Generator],
) -> None:
    case, pairs, x, _ = large_case
    results = []
    for num_threads in (1, 2, 3, 7):
        torch.set_num_threads(num_threads)
        v = lora_cpu.shrink(x, case.pool, case.tables, pairs, LAYER, LARGE_QKV)
        is_defined = ~expected_shrink(case, x, pairs, LAYER, LARGE_QKV).isnan()
        y = torch.ones(60, 960)
        lora_cpu.expand(v, case.pool, case.tables, pairs, LAYER, LARGE_QKV, y)
        results.append((v[0][is_defined], y))
    for v, y in results[1:]:
        assert torch.equal(v, results[0][0])
        assert torch.equal(y, results[0][1])


@pytest.mark.parametrize("kernels", [lora_cpu, lora_triton])
def test_what_would_read_foreign_memory_is_refused(kernels: ModuleType) -> None:
    generator = torch.Generator().manual_seed(3)
    case = build_case(generator, MODULES, {(0, LAYER, 0): 2}, num_slots=1, num_layers=NUM_LAYERS)
    pairs = build_pairs(generator, 4, [(0, 2)], max_rank=2)
    x = torch.randn(4, HIDDEN, generator=generator)
    one = QKV[:1]
    with pytest.raises(AssertionError, match="convert one of them"):
        kernels.shrink(x.half(), case.pool, case.tables, pairs, LAYER, one)
    with pytest.raises(AssertionError, match="adjacent"):
        kernels.shrink(x.T, case.pool, case.tables, pairs, LAYER, one)
    with pytest.raises(AssertionError, match="expected that of this batch"):
        kernels.expand(torch.zeros(1, 1, 2), case.pool, case.tables, pairs, LAYER, one, x)
