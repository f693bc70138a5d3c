"""Are routed shrink and its expand right at real shapes?

Owns: their float64 reference, set by set, and its tolerance.

Where the last gate that is chosen and the first that is not are as near as the products are exact,
either choice is right, and what depends on it is not compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import msgspec
import torch
from torch import Tensor

from benchmarks.gpu.errors import SUM_ERROR, roundoff, worst_error
from benchmarks.gpu.lora_pool import SIBLINGS, side_by_side
from benchmarks.gpu.parts import Case
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Check
from benchmarks.gpu.routed_batch import KINDS, TOP_K, RoutedBatch, routed_batch
from motet.core.shape import ModelShape, Module
from motet.kernels.gating import gate_weights
from motet.kernels.types import SELF, Kernels, Projection, Rule

_TOLERANCE = "u |y|, k times, + (e + 4 d) sum |w b| |a x|; d: of a gate's product, e as for expand"
_USAGE_TOLERANCE = "4 d + 2^-19"


def routing_cases(
    plan: Plan, kernels: Kernels, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[Case]:
    """Few and many tokens, small and large banks of experts, sets of every kind in one batch."""
    shape = msgspec.structs.replace(plan.config.shape, num_layers=1)
    for num_tokens, num_experts, rank in plan.check.routed:
        title = f"lora, routed, {num_tokens} tokens, {num_experts} experts of rank {rank}"
        title = f"{title}, {str(dtype).removeprefix('torch.')}"
        make = partial(
            routed_batch, shape, list(KINDS), num_tokens, num_experts, rank, dtype, generator
        )
        yield Case(title, partial(_check, title, make, kernels, shape, generator))


def _check(
    title: str,
    make: "partial[RoutedBatch]",
    kernels: Kernels,
    shape: ModelShape,
    generator: torch.Generator,
) -> list[Check]:
    """The worst of all sibling groups."""
    batch = make()
    errors = [_errors(batch, kernels, shape, modules, generator) for modules in SIBLINGS]
    of_y, of_usage = (max(each) for each in zip(*errors, strict=True))
    return [
        Check(name=f"{title}: shrink and expand", worst=of_y, tolerance=_TOLERANCE),
        Check(name=f"{title}: usage", worst=of_usage, tolerance=_USAGE_TOLERANCE),
    ]


def _errors(
    batch: RoutedBatch,
    kernels: Kernels,
    shape: ModelShape,
    modules: Sequence[Module],
    generator: torch.Generator,
) -> tuple[float, float]:
    data, tables = batch.pool.data, batch.pool.tables
    projections = side_by_side(shape, modules)

    def random(width: int) -> Tensor:
        values = torch.randn(batch.num_tokens, width, generator=generator, device=data.device)
        return values.to(data.dtype)

    x = random(shape.in_features(modules[0]))
    y = random(sum(p.out_features for p in projections))
    routed = replace(batch.routed, usage=torch.zeros_like(batch.routed.usage))
    want, tolerance = y.double(), torch.zeros_like(y, dtype=torch.float64)
    usage = torch.zeros_like(routed.usage, dtype=torch.float64)
    usage_tolerance = torch.zeros_like(usage)
    for projection in projections:
        weights, error = _weights(batch, x, projection)
        usage += weights
        usage_tolerance += 4 * error[:, None] + SUM_ERROR
        _add(batch, x, projection, weights, error, want, tolerance)
    v, pairs = kernels.shrink_routed(x, data, tables, routed, 0, projections)
    kernels.expand(v, data, tables, pairs, 0, projections, y)
    return worst_error(y, want, tolerance), worst_error(routed.usage, usage, usage_tolerance)


def _weights(batch: RoutedBatch, x: Tensor, projection: Projection) -> tuple[Tensor, Tensor]:
    """Weights of the gates by token, float64 [num_tokens, most gates], in the order of the gates.

    Also the error that their scores may have, [num_tokens]: infinite where a choice is open.
    """
    routed, key = batch.routed, (0, Module(projection.module), False)
    products = torch.zeros_like(routed.usage, dtype=torch.float64)
    num_gates = torch.zeros_like(routed.sets)
    error = torch.zeros(batch.num_tokens, dtype=torch.float64, device=x.device)
    for i, router in enumerate(batch.routers):
        rows = (routed.sets == i).nonzero().flatten()
        rule = routed.rules[i].tolist()
        inputs = x[routed.gates.tokens[rows].long()].double()
        slot = int(routed.expert_slots[i, 0]) if rule[Rule.SCORE] == SELF else router
        gates = batch.matrices[slot][key].double()
        count = len(gates) - rule[Rule.HAS_BIAS]
        bias = gates[count, :count] if rule[Rule.HAS_BIAS] else 0.0
        products[rows, :count] = inputs @ gates[:count].T + bias
        num_gates[rows] = count
        sums = inputs.abs() @ gates[:count].abs().T
        ordered = products[rows, :count].sort(dim=1, descending=True).values
        of_rows = SUM_ERROR * sums.amax(dim=1)
        if count > TOP_K:
            is_open = ordered[:, TOP_K - 1] - ordered[:, TOP_K] <= 4 * of_rows
            of_rows[is_open] = torch.inf
        # A normed score is off by as much as its product, over the norm.
        norm = ordered.norm(dim=1).clamp(min=1e-30)
        error[rows] = of_rows / norm if rule[Rule.SCORE] == SELF else of_rows
    return gate_weights(products, num_gates, routed), error


def _add(
    batch: RoutedBatch,
    x: Tensor,
    projection: Projection,
    weights: Tensor,
    error: Tensor,
    want: Tensor,
    tolerance: Tensor,
) -> None:
    """What the experts of one projection add to `want`, and what their sums may be off by."""
    routed, module = batch.routed, Module(projection.module)
    columns = slice(projection.out_start, projection.out_start + projection.out_features)
    tokens = routed.gates.tokens.long()
    added = torch.zeros(
        len(tokens), projection.out_features, dtype=torch.float64, device=want.device
    )
    absolutes = torch.zeros_like(added)
    for i in range(len(batch.routers)):
        rows = (routed.sets == i).nonzero().flatten()
        inputs = x[tokens[rows]].double()
        by_rank = bool(routed.rules[i, Rule.BY_RANK])
        slots = routed.expert_slots[i].tolist()
        for expert, slot in enumerate(slots[:1] if by_rank else slots):
            a = batch.matrices[slot][0, module, False].double()
            b = batch.matrices[slot][0, module, True].double()
            w = weights[rows, : len(a)] if by_rank else weights[rows, expert, None]
            added[rows] += (w * (inputs @ a.T)) @ b
            absolutes[rows] += (w * (inputs.abs() @ a.abs().T)) @ b.abs()
    before = want[tokens, columns]
    after = before + added
    want[tokens, columns] = after
    dtype = batch.pool.data.dtype
    sum_error = SUM_ERROR if dtype == torch.float32 else 2.0**-11
    largest = before.abs() + absolutes
    # Where a choice is open, all that a gate could add.
    of_weights = (sum_error + 4 * error)[:, None] * absolutes
    of_weights[error.isinf()] = torch.inf
    tolerance[tokens, columns] = roundoff(dtype, TOP_K) * largest + of_weights
