"""Routed shrink on a CPU, and the expand that follows, against the reference in float64."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motet.kernels import gating_cpu_loops, lora_cpu, lora_reference, routing_cpu, routing_reference
from motet.kernels.gating import gate_weights
from motet.kernels.types import Projection, RoutedTokens, Rule
from tests.kernels.cpu_cases import thread_counts, threads
from tests.kernels.lora_cases import Widths
from tests.kernels.routing_cases import SETS, RoutedSet, RoutingCase, build_routing
from tests.kernels.test_lora_cpu_pairs import projections_of

NUM_LAYERS, LAYER = 2, 1
NARROW = (Widths(48, 48), Widths(48, 16), Widths(48, 16))
WIDE = (Widths(576, 576), Widths(576, 192), Widths(576, 192))
ODD = (Widths(45, 33), Widths(45, 7))  # no whole number of vectors

Outcome = tuple[Tensor, Tensor]
"""y, and the usage."""


@pytest.fixture(autouse=True)
def fresh_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # which has torch fill what it allocates
    yield
    torch.use_deterministic_algorithms(False)


def build(
    modules: Sequence[Widths], sets: Sequence[RoutedSet], seed: int = 0, **options: Any
) -> RoutingCase:
    generator = torch.Generator().manual_seed(seed)
    return build_routing(generator, modules, sets, num_layers=NUM_LAYERS, layer=LAYER, **options)


def draw(case: RoutingCase, num_tokens: int, seed: int) -> tuple[RoutedTokens, Tensor, Tensor]:
    """Tokens of random sets, one in six of none, x and y. x of the others is NaN."""
    generator = torch.Generator().manual_seed(seed)
    modules = case.lora.modules
    numbers = torch.randint(len(case.sets), (num_tokens,), generator=generator).tolist()
    rows = torch.randperm(num_tokens, generator=generator)[: -(-num_tokens * 5 // 6)].tolist()
    x = torch.full((num_tokens, modules[0].in_features), torch.nan)
    x[rows] = 3 * torch.randn(len(rows), x.shape[1], generator=generator)
    y = torch.randn(num_tokens, sum(w.out_features for w in modules), generator=generator)
    dtype = case.lora.pool.dtype
    return case.tokens([(row, numbers[row]) for row in rows]), x.to(dtype), y.to(dtype)


def run(
    kernels: Any,
    expand: Any,
    case: RoutingCase,
    routed: RoutedTokens,
    x: Tensor,
    y: Tensor,
    pool: Tensor,
    projections: tuple[Projection, ...] | None = None,
) -> Outcome:
    routed = replace(routed, usage=torch.zeros_like(routed.usage))
    y, tables = y.clone(), case.lora.tables
    each = projections or projections_of(case.lora.modules)
    v, pairs = kernels.shrink_routed(x, pool, tables, routed, LAYER, each)
    expand(v, pool, tables, pairs, LAYER, each, y)
    return y, routed.usage


def actual(
    case: RoutingCase, routed: RoutedTokens, x: Tensor, y: Tensor, **options: Any
) -> Outcome:
    return run(routing_cpu, lora_cpu.expand, case, routed, x, y, case.lora.pool, **options)


def exact(case: RoutingCase, routed: RoutedTokens, x: Tensor, y: Tensor) -> Outcome:
    pool = case.lora.pool.double()
    return run(routing_reference, lora_reference.expand, case, routed, x.double(), y.double(), pool)


def assert_same(found: Outcome, expected: Outcome, tolerance: float = 2e-5) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SETS)
def test_each_rule(name: str) -> None:
    case = build(NARROW, [SETS[name]], seed=len(name))
    inputs = draw(case, 25, seed=1)
    expected = exact(case, *inputs)
    assert expected[1].any(), "nothing was chosen"
    assert_same(actual(case, *inputs), expected)


@pytest.mark.parametrize("num_tokens", [1, 2, 16, 150])
@pytest.mark.parametrize("modules", [NARROW, WIDE], ids=["narrow", "wide"])
def test_all_rules_in_one_batch(modules: tuple[Widths, ...], num_tokens: int) -> None:
    case = build(modules, list(SETS.values()), seed=2)
    inputs = draw(case, num_tokens, seed=3)
    assert_same(actual(case, *inputs), exact(case, *inputs))


@pytest.mark.slow
def test_600_tokens() -> None:
    """Of few sets, so that some experts have segments that are left to BLAS."""
    case = build(NARROW, [SETS["top-1"], SETS["smora-of-all"]], seed=4)
    inputs = draw(case, 600, seed=5)
    assert_same(actual(case, *inputs), exact(case, *inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_odd_widths_and_other_dtypes(dtype: torch.dtype) -> None:
    case = build(ODD, list(SETS.values()), seed=6, dtype=dtype)
    inputs = draw(case, 30, seed=7)
    tolerance = max(2e-5, 2 * torch.finfo(dtype).eps)
    y, usage = exact(case, *inputs)
    found_y, found_usage = actual(case, *inputs)
    assert_same((found_y, found_usage), (y, usage), tolerance)


def test_usage_is_added_to() -> None:
    case = build(NARROW, list(SETS.values()), seed=8)
    routed, x, _ = draw(case, 20, seed=9)
    before = torch.rand(routed.usage.shape, generator=torch.Generator().manual_seed(10))
    expected = exact(case, routed, x, torch.zeros(20, 80))[1] + before
    routed.usage.copy_(before)
    routing_cpu.shrink_routed(
        x, case.lora.pool, case.lora.tables, routed, LAYER, projections_of(NARROW)
    )
    torch.testing.assert_close(routed.usage, expected, rtol=2e-5, atol=2e-5)


def test_a_layer_without_gates_changes_nothing() -> None:
    case = build(NARROW, [SETS["meteora"], SETS["mora"]], seed=11)
    routed, x, _ = draw(case, 12, seed=12)
    v, pairs = routing_cpu.shrink_routed(
        x, case.lora.pool, case.lora.tables, routed, 1 - LAYER, projections_of(NARROW)
    )
    assert pairs.num_pairs == pairs.num_segments == v.shape[1] == 0
    y = torch.ones(12, 80)
    lora_cpu.expand(
        v, case.lora.pool, case.lora.tables, pairs, 1 - LAYER, projections_of(NARROW), y
    )
    assert (y == 1).all()
    assert not routed.usage.any()


def test_no_routed_token() -> None:
    case = build(NARROW, [SETS["meteora"]], seed=13)
    routed = case.tokens([])
    y, usage = actual(case, routed, torch.full((3, 48), torch.nan), torch.ones(3, 80))
    assert (y == 1).all()
    assert usage.numel() == 0


def test_a_token_does_not_depend_on_those_beside_it() -> None:
    """Bit for bit, and with its experts in other slots too."""
    case = build(WIDE, list(SETS.values()), seed=14)
    routed, x, y = draw(case, 60, seed=15)
    together, usage = actual(case, routed, x, y)
    for i in range(0, routed.gates.num_pairs, 7):
        row = int(routed.gates.tokens[i])
        one = case.tokens([(0, int(routed.sets[i]))])
        alone, its_usage = actual(case, one, x[row : row + 1], y[row : row + 1])
        assert torch.equal(alone[0], together[row])
        assert torch.equal(its_usage[0], usage[i])


def test_the_slots_of_experts_do_not_matter() -> None:
    case = build(WIDE, [SETS["meteora-warm"]], seed=16)
    routed, x, y = draw(case, 20, seed=17)
    order = torch.randperm(
        case.lora.tables.ranks.shape[0], generator=torch.Generator().manual_seed(18)
    )
    place = order.argsort().int()
    tables = replace(
        case.lora.tables,
        run_starts=case.lora.tables.run_starts[order],
        ranks=case.lora.tables.ranks[order],
    )
    moved = replace(case, lora=replace(case.lora, tables=tables))
    gates = replace(routed.gates, slots=place[routed.gates.slots.long()])
    slots = place[routed.expert_slots.long()]
    found = actual(moved, replace(routed, gates=gates, expert_slots=slots), x, y)
    for a, b in zip(found, actual(case, routed, x, y), strict=True):
        assert torch.equal(a, b)


def test_the_number_of_threads_changes_no_bit() -> None:
    case = build(WIDE, list(SETS.values()), seed=19, max_rank=30)
    inputs = draw(case, 300, seed=20)
    results = []
    for counts in thread_counts():
        with threads(*counts):
            results.append(actual(case, *inputs))
    for y, usage in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(usage, results[0][1])


def test_what_overflows_in_a_token_stays_there() -> None:
    case = build(NARROW, list(SETS.values()), seed=21)
    routed, x, y = draw(case, 40, seed=22)
    expected, _ = actual(case, routed, x, y)
    for bad in (torch.nan, torch.inf):
        rows = routed.gates.tokens[::3].long()
        broken = x.clone()
        broken[rows] = bad
        found, _ = actual(case, routed, broken, y)
        is_whole = torch.ones(len(x), dtype=torch.bool)
        is_whole[rows] = False
        assert torch.equal(found[is_whole], expected[is_whole])


GATES = build(NARROW, [SETS["meteora"]], seed=23)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_gates=st.integers(1, 40),
    rule=st.builds(
        RoutedSet,
        num_experts=st.just(40),
        top_k=st.integers(1, 45),
        score=st.sampled_from([0, 1, 2]),
        share=st.sampled_from([0, 1, 2]),
        temperature=st.sampled_from([0.1, 1.0, 30.0]),
        threshold=st.sampled_from([-torch.inf, 0.0, 0.3]),
    ),
    has_ties=st.booleans(),
)
def test_gates_of_any_rule(seed: int, num_gates: int, rule: RoutedSet, has_ties: bool) -> None:
    """Among equal scores the first are chosen."""
    generator = torch.Generator().manual_seed(seed)
    products = 2 * torch.randn(num_gates, generator=generator)
    if has_ties:
        products = products.round() / 2
    routed = replace(GATES, sets=[rule]).tokens([(0, 0)])
    expected = gate_weights(products[None], torch.tensor([num_gates]), routed)[0]
    chosen = torch.full((num_gates,), -1, dtype=torch.int32)
    weights = torch.full((num_gates,), torch.nan)
    num_chosen = gating_cpu_loops.choose_gates(
        products.clone().numpy(),
        routed.rules[0].numpy(),
        routed.inverse_temperatures.numpy()[0],
        routed.thresholds.numpy()[0],
        chosen.numpy(),
        weights.numpy(),
    )
    found = torch.zeros(num_gates)
    found[chosen[:num_chosen].long()] = weights[:num_chosen]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert num_chosen == len(set(chosen[:num_chosen].tolist()))


BROKEN = {
    "sets is": lambda r: replace(r, sets=r.sets.long()),
    "sets has": lambda r: replace(r, sets=r.sets[:-1]),
    "rules has": lambda r: replace(r, rules=r.rules[:, : Rule.HAS_BIAS].contiguous()),
    "rules must be contiguous": lambda r: replace(r, rules=r.rules.T.contiguous().T),
    "thresholds is": lambda r: replace(r, thresholds=r.thresholds.double()),
    "usage has": lambda r: replace(r, usage=r.usage[:-1]),
    "max_choices": lambda r: replace(r, max_choices=0),
    "pairs must be int32": lambda r: replace(r, gates=replace(r.gates, slots=r.gates.slots.long())),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_would_read_foreign_memory_is_refused(message: str) -> None:
    case = build(NARROW, [SETS["meteora"], SETS["mora"]], seed=24)
    routed, x, _ = draw(case, 6, seed=25)
    with pytest.raises(AssertionError, match=message):
        routing_cpu.shrink_routed(
            x,
            case.lora.pool,
            case.lora.tables,
            BROKEN[message](routed),
            LAYER,
            projections_of(NARROW),
        )
