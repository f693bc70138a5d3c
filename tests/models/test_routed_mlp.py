"""The block of `RoutedMlp` against its equation, one token at a time in float64."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from motet.core.shape import GATE_UP, MODULES, ModelShape, Module
from motet.kernels.reference_backend import ReferenceKernels
from motet.kernels.types import (
    LINEAR,
    OF_CHOSEN,
    AttentionBatch,
    Kernels,
    LoraPairs,
    LoraTables,
    Projection,
    RoutedTokens,
)
from motet.models.context import ForwardContext, LoraContext
from motet.models.layers import Linear, LoraLinear
from motet.models.matrix import DenseMatrix
from motet.models.routed_mlp import RoutedMlp
from tests.kernels.lora_cases import LoraCase, Widths, build_case, build_pairs

SHAPE = ModelShape(
    num_layers=2,
    hidden_size=24,
    intermediate_size=40,
    num_heads=3,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=11,
)
MLP = (Module.GATE, Module.UP, Module.DOWN)
LAYER = 1
MAX_RANK = 7
NO_SLOT = 2**31 - 1  # whoever uses it reads past the tables

BIG, SMALL, ELSEWHERE = range(3)
EXPERTS = {BIG: (4, 0, 6, 2), SMALL: (2, 5), ELSEWHERE: (0, 6)}
TOP_K = {BIG: 3, SMALL: 1, ELSEWHERE: 2}
TEMPERATURES = {BIG: 1.0, SMALL: 0.5, ELSEWHERE: 1.0}
ROUTER_SLOTS = {BIG: 7, SMALL: 3, ELSEWHERE: 8}  # the last has no gates in this layer
FIXED_SLOT = 1
MAX_CHOICES = 3


@dataclass
class Block:
    """A block, its input, and which tokens are of which set (None: of none)."""

    case: LoraCase
    gate_up: Tensor
    down: Tensor
    x: Tensor
    sets: list[int | None]
    fixed: LoraPairs
    blocks: RoutedTokens

    def run(self, kernels: Kernels, blocks: RoutedTokens | None) -> Tensor:
        lora = LoraContext(self.case.tables, self.fixed, blocks=blocks)
        ctx = context(self.case.pool, kernels, lora)
        gate_up = LoraLinear(Linear(DenseMatrix(self.gate_up), None), GATE_UP, SHAPE, LAYER)
        down = LoraLinear(Linear(DenseMatrix(self.down), None), (Module.DOWN,), SHAPE, LAYER)
        rows = gate_up(self.x, ctx)
        if blocks is None:
            return down(kernels.silu_mul(rows), ctx)
        mlp = RoutedMlp(down, SHAPE, LAYER)
        return mlp.forward(self.x, rows, ctx, self.case.tables, blocks)


def context(pool: Tensor, kernels: Kernels, lora: LoraContext) -> ForwardContext:
    none = torch.empty(0)
    attention = AttentionBatch(none, none, none, 0, 0, 1)
    return ForwardContext(pool, kernels, attention, none, none, lora)


def random_block(seed: int, num_tokens: int) -> Block:
    """A third of the tokens in no set, the others at random in one of three."""
    generator = torch.Generator().manual_seed(seed)
    ranks = {
        (slot, layer, int(module)): 1 + (3 * slot + module) % MAX_RANK
        for slot in {FIXED_SLOT, *(slot for slots in EXPERTS.values() for slot in slots)}
        for layer in range(SHAPE.num_layers)
        for module in MLP
        if (slot, module) not in {(0, Module.UP), (2, Module.DOWN)}
    }
    for each in EXPERTS:
        layer = 0 if each == ELSEWHERE else LAYER
        ranks[ROUTER_SLOTS[each], layer, int(Module.GATE)] = len(EXPERTS[each])
    widths = [Widths(SHAPE.in_features(m), SHAPE.out_features(m)) for m in MODULES]
    case = build_case(generator, widths, ranks, num_slots=9, num_layers=SHAPE.num_layers)
    choices = [None, None, BIG, SMALL, BIG, ELSEWHERE]
    drawn = torch.randint(len(choices), (num_tokens,), generator=generator).tolist()
    sets = [choices[i] for i in drawn]
    sets[0] = BIG
    return Block(
        case=case,
        gate_up=torch.randn(2 * SHAPE.intermediate_size, SHAPE.hidden_size, generator=generator),
        down=torch.randn(SHAPE.hidden_size, SHAPE.intermediate_size, generator=generator),
        x=torch.randn(num_tokens, SHAPE.hidden_size, generator=generator),
        sets=sets,
        fixed=build_pairs(generator, num_tokens, [(FIXED_SLOT, 1 + num_tokens // 2)], MAX_RANK),
        blocks=routed_tokens(sets),
    )


def routed_tokens(sets: list[int | None]) -> RoutedTokens:
    rows = sorted((ROUTER_SLOTS[each], t, each) for t, each in enumerate(sets) if each is not None)
    slots = [slot for slot, _, _ in rows]
    starts = [i for i in range(len(rows)) if i == 0 or slots[i] != slots[i - 1]]
    most = max(map(len, EXPERTS.values()))
    gates = LoraPairs(
        tokens=ints([t for _, t, _ in rows]),
        slots=ints(slots),
        weights=torch.full((len(rows),), torch.nan),
        segment_starts=ints([*starts, len(rows)]),
        max_rank=most + 2,
    )
    return RoutedTokens(
        gates=gates,
        sets=ints([each for _, _, each in rows]),
        expert_slots=ints([[*s, *[NO_SLOT] * (most - len(s))] for s in EXPERTS.values()]),
        rules=ints([[TOP_K[each], LINEAR, OF_CHOSEN, 0, 0] for each in EXPERTS]),
        inverse_temperatures=torch.tensor([1 / TEMPERATURES[each] for each in EXPERTS]),
        thresholds=torch.full((len(EXPERTS),), -torch.inf),
        max_choices=MAX_CHOICES,
        max_rank=MAX_RANK,
        usage=torch.zeros(len(rows), most),
    )


def ints(values: list[int] | list[list[int]]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def expected_row(block: Block, token: int) -> Tensor:
    """The block's output of one token: the sum of w_e FFN_e, each computed whole."""
    fixed = [
        (int(slot), float(weight))
        for t, slot, weight in zip(
            block.fixed.tokens, block.fixed.slots, block.fixed.weights, strict=True
        )
        if t == token
    ]
    x = block.x[token].double()
    its_set = block.sets[token]
    if its_set is None or its_set == ELSEWHERE:
        return ffn(block, x, fixed)
    logits = block.case.a[ROUTER_SLOTS[its_set], LAYER, Module.GATE] @ x
    best, chosen = logits.topk(TOP_K[its_set])
    weights = (best / TEMPERATURES[its_set]).softmax(0)
    y = torch.zeros(SHAPE.hidden_size).double()
    for weight, expert in zip(weights, chosen.tolist(), strict=True):
        y += weight * ffn(block, x, [*fixed, (EXPERTS[its_set][expert], 1.0)])
    return y


def ffn(block: Block, x: Tensor, adapters: list[tuple[int, float]]) -> Tensor:
    gate, up = block.gate_up.double().chunk(2)

    def project(weight: Tensor, module: Module, row: Tensor) -> Tensor:
        y = weight @ row
        for slot, factor in adapters:
            if (slot, LAYER, module) in block.case.a:
                a, b = (each[slot, LAYER, module] for each in (block.case.a, block.case.b))
                y = y + factor * (b @ (a @ row))
        return y

    hidden = silu(project(gate, Module.GATE, x)) * project(up, Module.UP, x)
    return project(block.down.double(), Module.DOWN, hidden)


@pytest.mark.parametrize(("seed", "num_tokens"), [(0, 1), (1, 2), (2, 9), (3, 60)])
def test_each_token_is_its_experts_ffns(seed: int, num_tokens: int) -> None:
    block = random_block(seed, num_tokens)
    actual = block.run(ReferenceKernels(), block.blocks)
    expected = torch.stack([expected_row(block, t) for t in range(num_tokens)])
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


def test_tokens_of_no_set_are_as_without_any() -> None:
    block = random_block(4, 30)
    actual = block.run(ReferenceKernels(), block.blocks)
    plain = block.run(ReferenceKernels(), None)
    is_plain = torch.tensor([each is None for each in block.sets])
    assert torch.equal(actual[is_plain], plain[is_plain])
    assert not torch.isclose(actual[~is_plain], plain[~is_plain]).all()


def test_usage_grows_by_one_choice_of_each_token() -> None:
    block = random_block(5, 40)
    block.blocks.usage.fill_(10.0)
    block.run(ReferenceKernels(), block.blocks)
    used = block.blocks.usage - 10
    for row, its_set in zip(used, block.blocks.sets.tolist(), strict=True):
        assert int((row > 0).sum()) == (0 if its_set == ELSEWHERE else TOP_K[its_set])
        assert float(row.sum()) == pytest.approx(0 if its_set == ELSEWHERE else 1, abs=1e-4)


class Recording(ReferenceKernels):
    """Keeps the pairs that it is called with."""

    def __init__(self) -> None:
        self.shrunk: list[tuple[LoraPairs, int]] = []
        self.expanded: list[tuple[LoraPairs, int]] = []

    def shrink(  # type: ignore[override]
        self,
        x: Tensor,
        pool: Tensor,
        tables: LoraTables,
        pairs: LoraPairs,
        layer: int,
        projections: tuple[Projection, ...],
    ) -> Tensor:
        self.shrunk.append((pairs, len(x)))
        return ReferenceKernels.shrink(x, pool, tables, pairs, layer, projections)

    def expand(  # type: ignore[override]
        self,
        v: Tensor,
        pool: Tensor,
        tables: LoraTables,
        pairs: LoraPairs,
        layer: int,
        projections: tuple[Projection, ...],
        y: Tensor,
    ) -> None:
        self.expanded.append((pairs, len(y)))
        ReferenceKernels.expand(v, pool, tables, pairs, layer, projections, y)


@pytest.mark.parametrize("num_tokens", [1, 3, 50])  # fewer and more than there are experts
def test_the_kernels_are_given_what_they_may_be_given(num_tokens: int) -> None:
    block = random_block(6, num_tokens)
    kernels = Recording()
    block.run(kernels, block.blocks)
    num_routed = block.blocks.gates.num_pairs
    shrinks = [each for each in kernels.shrunk if each[0].num_pairs == MAX_CHOICES * num_routed]
    expands = [each for each in kernels.expanded if each[0].num_pairs == MAX_CHOICES * num_routed]
    assert len(shrinks) == len(expands) == 2
    for pairs, num_rows in (*shrinks, *expands):
        starts = pairs.segment_starts.tolist()
        assert starts == sorted(starts)
        assert (starts[0], starts[-1]) == (0, pairs.num_pairs)
        assert all(0 <= row < num_rows for row in pairs.tokens.tolist())
        for first, last in pairwise(starts):
            assert len(set(pairs.slots[first:last].tolist())) <= 1
        begins = [*pairs.rounds, (pairs.num_segments, pairs.num_pairs)]
        for (segment, first), (_, last) in pairwise(begins):
            assert starts[segment] == first
            assert len(set(pairs.tokens[first:last].tolist())) == last - first
            assert pairs.slots[first:last].tolist() == sorted(pairs.slots[first:last].tolist())
        assert {each.dtype for each in (pairs.tokens, pairs.slots, pairs.segment_starts)} == {
            torch.int32
        }
        assert all(each.is_contiguous() for each in (pairs.tokens, pairs.slots, pairs.weights))


def test_nothing_waits_for_the_device() -> None:
    """Tensors without values: whoever needs a value to go on cannot."""

    class Shapes(ReferenceKernels):
        @staticmethod
        def shrink(  # type: ignore[override]
            x: Tensor,
            pool: Tensor,
            tables: LoraTables,
            pairs: LoraPairs,
            layer: int,
            projections: tuple[Projection, ...],
        ) -> Tensor:
            return torch.empty(2, pairs.num_pairs, len(projections), pairs.max_rank, device="meta")

        @staticmethod
        def expand(*_: object) -> None: ...

    def away(tensor: Tensor) -> Tensor:
        return tensor.to("meta")

    block = random_block(7, 12)
    here = block.blocks
    gates = replace(
        here.gates,
        tokens=away(here.gates.tokens),
        slots=away(here.gates.slots),
        weights=away(here.gates.weights),
        segment_starts=away(here.gates.segment_starts),
    )
    blocks = replace(
        here,
        gates=gates,
        sets=away(here.sets),
        expert_slots=away(here.expert_slots),
        rules=away(here.rules),
        inverse_temperatures=away(here.inverse_temperatures),
        thresholds=away(here.thresholds),
        usage=away(here.usage),
    )
    tables = block.case.tables
    tables = LoraTables(away(tables.row_offsets), away(tables.run_starts), away(tables.ranks))
    ctx = context(away(block.case.pool), Shapes(), LoraContext(tables, None, blocks=blocks))
    down = LoraLinear(Linear(DenseMatrix(away(block.down)), None), (Module.DOWN,), SHAPE, LAYER)
    x, gate_up = away(block.x), torch.empty(12, 2 * SHAPE.intermediate_size, device="meta")
    y = RoutedMlp(down, SHAPE, LAYER).forward(x, gate_up, ctx, tables, blocks)
    assert y.shape == x.shape
