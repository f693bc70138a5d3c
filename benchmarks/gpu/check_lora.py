"""Are shrink and expand right at real shapes?

Owns: their float64 references, segment by segment, and their tolerances.

One layer is enough: widths, ranks, page layout and tables are those of the model.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec
import torch
from torch import Tensor

from benchmarks.gpu.errors import SUM_ERROR, poison_free_memory, roundoff, worst_error
from benchmarks.gpu.lora_batch import (
    LoraBatch,
    decode_batch,
    prefill_batch,
    single_adapter_batch,
)
from benchmarks.gpu.lora_pool import SIBLINGS, Matrices, side_by_side
from benchmarks.gpu.parts import Case
from benchmarks.gpu.plan import CheckPlan, Plan
from benchmarks.gpu.results import Check
from benchmarks.gpu.timing import synchronize
from motet.core.shape import ModelShape, Module
from motet.kernels.types import Kernels, Projection

_SHRINK_TOLERANCE = "2^-19 sum |a x|"
_EXPAND_TOLERANCE = "u |y| + e (|y before| + sum |w v b|), e = 2^-19, or 2^-11 with 16 bits"


_Make = Callable[[CheckPlan, ModelShape, torch.dtype, torch.Generator], LoraBatch]


def lora_cases(
    plan: Plan, kernels: Kernels, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[Case]:
    """Decode, prefill and prefill with one adapter."""
    shape = msgspec.structs.replace(plan.config.shape, num_layers=1)
    makes: dict[str, _Make] = {
        "decode": decode_batch,
        "prefill": prefill_batch,
        "one adapter": single_adapter_batch,
    }
    for name, make in makes.items():
        title = f"lora, {name}, {str(dtype).removeprefix('torch.')}"
        make_batch = partial(make, plan.check, shape, dtype, generator)
        yield Case(title, partial(_check, title, make_batch, kernels, shape, generator))


def _check(
    title: str,
    make_batch: Callable[[], LoraBatch],
    kernels: Kernels,
    shape: ModelShape,
    generator: torch.Generator,
) -> list[Check]:
    """The worst of all sibling groups."""
    batch = make_batch()
    errors = [_errors(batch, kernels, shape, modules, generator) for modules in SIBLINGS]
    shrink, expand = (max(each) for each in zip(*errors, strict=True))
    return [
        Check(name=f"{title}: shrink", worst=shrink, tolerance=_SHRINK_TOLERANCE),
        Check(name=f"{title}: expand", worst=expand, tolerance=_EXPAND_TOLERANCE),
    ]


def _errors(
    batch: LoraBatch,
    kernels: Kernels,
    shape: ModelShape,
    modules: Sequence[Module],
    generator: torch.Generator,
) -> tuple[float, float]:
    data, tables = batch.pool.data, batch.pool.tables
    projections = side_by_side(shape, modules)
    where = (data, tables, batch.pairs, 0, projections)

    x = _random(batch.num_tokens, shape.in_features(modules[0]), data, generator)
    has_pair = torch.zeros(batch.num_tokens, dtype=torch.bool, device=data.device)
    has_pair[batch.pairs.tokens.long()] = True
    x[~has_pair] = torch.nan
    want, tolerance = _shrink_reference(batch, x, projections)
    poison_free_memory(data.device, 4 * want.numel())
    v = kernels.shrink(x, *where)
    synchronize(data.device)  # only expand knows on which stream v comes
    # A backend may give v in parts that its own expand adds up.
    v_sum = v.reshape(-1, *want.shape).sum(0)
    is_defined = ~want.isnan()
    shrink = worst_error(v_sum[is_defined], want[is_defined], tolerance[is_defined])

    v.masked_fill_(~is_defined, torch.nan)
    y = _random(batch.num_tokens, sum(p.out_features for p in projections), data, generator)
    want, tolerance = _expand_reference(batch, v_sum, projections, y)
    kernels.expand(v, *where, y)
    return shrink, worst_error(y, want, tolerance)


def _shrink_reference(
    batch: LoraBatch, x: Tensor, projections: Sequence[Projection]
) -> tuple[Tensor, Tensor]:
    """v in float64, NaN where it is undefined, and its tolerance."""
    shape = (batch.pairs.num_pairs, len(projections), batch.pairs.max_rank)
    v = torch.full(shape, torch.nan, dtype=torch.float64, device=x.device)
    tolerance = torch.zeros_like(v)
    for slot, pairs, tokens in batch.rows():
        for s, projection in enumerate(projections):
            a = _matrix(batch.matrices, slot, projection, is_b=False)
            if a is not None:
                rows = x[tokens].double()
                v[pairs, s, : len(a)] = rows @ a.T
                tolerance[pairs, s, : len(a)] = SUM_ERROR * (rows.abs() @ a.abs().T)
    return v, tolerance


def _expand_reference(
    batch: LoraBatch, v: Tensor, projections: Sequence[Projection], y: Tensor
) -> tuple[Tensor, Tensor]:
    """A new y in float64, and its tolerance: none where there is nothing to add."""
    want = y.double()
    tolerance = torch.zeros_like(want)
    sum_error = SUM_ERROR if y.dtype == torch.float32 else 2.0**-11
    for slot, pairs, tokens in batch.rows():
        weights = batch.pairs.weights[pairs].double()[:, None]
        for s, projection in enumerate(projections):
            b = _matrix(batch.matrices, slot, projection, is_b=True)
            if b is None:
                continue
            columns = slice(projection.out_start, projection.out_start + projection.out_features)
            factors = weights * v[pairs, s, : len(b)].double()
            before = want[tokens, columns]
            after = before + factors @ b
            want[tokens, columns] = after
            absolutes = before.abs() + factors.abs() @ b.abs()
            tolerance[tokens, columns] = roundoff(y.dtype) * after.abs() + sum_error * absolutes
    return want, tolerance


def _matrix(
    matrices: Sequence[Matrices], slot: int, projection: Projection, *, is_b: bool
) -> Tensor | None:
    """float64 [rank, width], or None where the slot or the projection has no rank rows."""
    if slot == len(matrices):
        return None
    matrix = matrices[slot].get((0, Module(projection.module), is_b))
    return None if matrix is None else matrix.double()


def _random(num_rows: int, width: int, like: Tensor, generator: torch.Generator) -> Tensor:
    values = torch.randn(num_rows, width, generator=generator, device=like.device)
    return values.to(like.dtype)
