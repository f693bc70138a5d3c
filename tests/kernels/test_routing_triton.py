"""Routed shrink of the Triton backend in each layout against the reference in float64.

Memory that it allocates is NaN, and the pool is NaN but for rank rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motet.core.routing import RoutingRule
from motet.kernels import lora_reference, routing_reference, routing_triton
from motet.kernels.lora_triton_sizes import ExpandSizes, ShrinkSizes
from motet.kernels.routing_triton import MAX_STACK_ROWS, Layout, layout_of
from motet.kernels.types import LoraTables, Projection, RoutedTokens
from tests.kernels.conftest import SetSizes
from tests.kernels.routed_case import RULES, RoutedCase, build_routed
from tests.kernels.test_lora import DOWN, LAYER, MODULES, NUM_LAYERS, QKV
from tests.kernels.test_lora_triton import DEVICE, DTYPES

pytestmark = pytest.mark.usefixtures("poisoned_memory", "few_programs")


@pytest.fixture
def few_programs(set_sizes: SetSizes) -> None:
    """Large blocks: the interpreter takes as long for a small one."""
    set_sizes(ShrinkSizes(16, 64, 64, 1, 4, 2), ExpandSizes(16, 32, 64, 4, 2))


@pytest.fixture
def generator() -> torch.Generator:
    """Fresh; its seed is shown with a failure."""
    generator = torch.Generator()
    print(f"seed {generator.seed()}")
    return generator


def to_device(case: RoutedCase) -> RoutedCase:
    routed, gates = case.routed, case.routed.gates
    moved = {
        name: getattr(gates, name).to(DEVICE)
        for name in ("tokens", "slots", "weights", "segment_starts")
    }
    tensors = {
        name: getattr(routed, name).to(DEVICE)
        for name in (
            *("sets", "expert_slots", "rules"),
            *("inverse_temperatures", "thresholds", "usage"),
        )
    }
    tables = case.tables
    return RoutedCase(
        pool=case.pool.to(DEVICE),
        tables=LoraTables(
            *(each.to(DEVICE) for each in (tables.row_offsets, tables.run_starts, tables.ranks))
        ),
        routed=replace(routed, gates=replace(gates, **moved), **tensors),
        num_tokens=case.num_tokens,
    )


def assert_matches(
    case: RoutedCase,
    layout: Layout,
    projections: tuple[Projection, ...],
    generator: torch.Generator,
) -> None:
    """Shrink and expand; compare outputs and usage, and what must not have been touched."""
    dtype = case.pool.dtype
    in_features = MODULES[projections[0].module].in_features
    out_features = sum(p.out_features for p in projections)
    x = torch.randn(case.num_tokens, in_features, generator=generator).to(dtype)
    is_routed = torch.zeros(case.num_tokens, dtype=torch.bool)
    is_routed[case.routed.gates.tokens.long()] = True
    x[~is_routed] = torch.nan
    before = torch.randn(case.num_tokens, out_features, generator=generator).to(dtype)
    exact, where = case.pool.double(), (LAYER, projections)
    expected, routed = before.double(), replace(case.routed, usage=case.routed.usage.clone())
    v, pairs = routing_reference.shrink_routed(x.double(), exact, case.tables, routed, *where)
    lora_reference.expand(v, exact, case.tables, pairs, *where, expected)

    there = to_device(case)
    y, pool, tables = before.to(DEVICE), there.pool, there.tables
    # A copy: to a device that it is on, nothing is moved.
    own = replace(there.routed, usage=there.routed.usage.clone())
    v, pairs = routing_triton.shrink_in(layout, x.to(DEVICE), pool, tables, own, *where)
    assert v.dtype == torch.float32
    routing_triton.expand(v, pool, tables, pairs, *where, y)
    # Each round rounds y once more.
    tolerance = max(2e-5, 4 * torch.finfo(dtype).eps * case.routed.max_choices)
    torch.testing.assert_close(y.cpu().double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(own.usage.cpu(), routed.usage, rtol=1e-4, atol=1e-5)
    assert torch.equal(y.cpu()[~is_routed], before[~is_routed])


def every_rule(num_tokens: int) -> list[tuple[RoutingRule, int, int]]:
    """A set of each rule, of different numbers of experts, with so many tokens each."""
    return [(rule, 2 + i % 4, num_tokens) for i, rule in enumerate(RULES.values())]


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize(
    ("dtype", "page_elems"),
    [(torch.float32, None), *((dtype, 160) for dtype in DTYPES[1:])],
    ids=str,
)
def test_every_rule_in_one_batch(
    layout: Layout, dtype: torch.dtype, page_elems: int | None, generator: torch.Generator
) -> None:
    case = build_routed(
        generator,
        MODULES,
        every_rule(1),
        (0, 1, 3, 8),
        num_layers=NUM_LAYERS,
        dtype=dtype,
        page_elems=page_elems,
    )
    assert_matches(case, layout, QKV, generator)


@pytest.mark.parametrize("layout", Layout)
def test_tokens_that_are_segments_of_their_own(layout: Layout, generator: torch.Generator) -> None:
    """As in a captured step."""
    case = build_routed(
        generator,
        MODULES,
        every_rule(1),
        (2, 17),
        num_layers=NUM_LAYERS,
        one_segment_each=True,
    )
    assert_matches(case, layout, DOWN, generator)


@pytest.mark.parametrize("layout", Layout)
def test_many_tokens_of_few_experts(layout: Layout, generator: torch.Generator) -> None:
    sets = [(RULES["meteora"], 3, 24), (RULES["mora"], 1, 3), (RULES["smora"], 1, 3)]
    case = build_routed(generator, MODULES, sets, (4, 20), num_layers=NUM_LAYERS)
    assert_matches(case, layout, QKV, generator)


@pytest.mark.parametrize("layout", Layout)
def test_sets_that_gate_ranks_alone(layout: Layout, generator: torch.Generator) -> None:
    sets = [(RULES["mora"], 1, 3)]
    case = build_routed(generator, MODULES, sets, (5, 21), num_layers=NUM_LAYERS)
    assert case.routed.gates.max_rank == 0
    assert_matches(case, layout, QKV, generator)


def test_a_batch_without_routed_tokens_costs_nothing(generator: torch.Generator) -> None:
    sets = [(RULES["meteora"], 2, 0)]
    case = to_device(build_routed(generator, MODULES, sets, (3,), num_layers=NUM_LAYERS))
    x = torch.full((case.num_tokens, 48), torch.nan, device=DEVICE)
    y = torch.zeros(case.num_tokens, 80, device=DEVICE)
    where = (case.pool, case.tables)
    v, pairs = routing_triton.shrink_routed(x, *where, case.routed, LAYER, QKV)
    routing_triton.expand(v, *where, pairs, LAYER, QKV, y)
    assert pairs.num_pairs == 0
    assert not y.any()


def test_the_layout_follows_from_what_the_host_knows() -> None:
    small, large = 28 * 8, MAX_STACK_ROWS + 1
    assert layout_of(2 * 16, 28, small) is Layout.STACKED
    assert layout_of(2 * 4096, 28, small) is Layout.STACKED
    assert layout_of(2, 28, small) is Layout.GATHERED  # most experts are not chosen
    assert layout_of(2 * 16, 28, large) is Layout.GATHERED
    assert layout_of(2 * 4096, 28, large) is Layout.GROUPED
    assert layout_of(2 * 16, 8 * 28, small) is Layout.GATHERED  # of eight sets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, rules=r.rules.long()), "rules is torch.int64, expected int32"),
        (lambda r: replace(r, usage=r.usage.double()), "usage is torch.float64, expected float32"),
        (lambda r: replace(r, usage=r.usage[:1]), "a row of usage for each token"),
        (lambda r: replace(r, sets=r.sets[:1]), "a set for each pair"),
        (lambda r: replace(r, expert_slots=r.expert_slots.T), "must be contiguous"),
    ],
)
def test_what_would_read_foreign_memory_is_refused(
    change: Callable[[RoutedTokens], RoutedTokens], message: str, generator: torch.Generator
) -> None:
    sets = [(RULES["meteora"], 3, 2), (RULES["arrow"], 2, 1)]
    case = build_routed(generator, MODULES, sets, (3,), num_layers=NUM_LAYERS)
    x = torch.zeros(case.num_tokens, 48)
    with pytest.raises(AssertionError, match=message):
        routing_triton.shrink_routed(x, case.pool, case.tables, change(case.routed), LAYER, QKV)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**31),
    sets=st.lists(
        st.tuples(st.sampled_from(list(RULES.values())), st.integers(1, 6), st.integers(1, 4)),
        min_size=1,
        max_size=3,
    ),
    ranks=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    layout=st.sampled_from(Layout),
    one_segment_each=st.booleans(),
    projections=st.sampled_from([QKV, DOWN]),
)
def test_any_batch(
    seed: int,
    sets: Sequence[tuple[RoutingRule, int, int]],
    ranks: Sequence[int],
    layout: Layout,
    one_segment_each: bool,
    projections: tuple[Projection, ...],
) -> None:
    generator = torch.Generator().manual_seed(seed)
    case = build_routed(
        generator,
        MODULES,
        sets,
        ranks,
        num_layers=NUM_LAYERS,
        one_segment_each=one_segment_each,
    )
    assert_matches(case, layout, projections, generator)
