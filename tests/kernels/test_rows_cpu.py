"""The register tiles over rows that lie apart, against float64."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from motet.kernels.compiled import compiled
from motet.kernels.rows_cpu import COLUMN_BLOCK, MOST_VECTORS, ROW_BLOCK, add_rows, dot_rows
from motet.kernels.simd_cpu import LANES
from tests.kernels.cpu_cases import GAP, assert_sums, poisoned_rows, rows_of
from tests.kernels.fused_cases import bits

NUMS_ROWS = list(range(1, 21))


@compiled()
def run_dot_rows(
    num_vectors, base, offsets, num_rows, width, next_offsets, num_next, distance, x, out
):
    dot_rows(num_vectors, base, offsets, num_rows, width, next_offsets, num_next, distance, x, out)


@compiled()
def run_add_rows(
    num_vectors,
    base,
    offsets,
    num_rows,
    num_columns,
    next_base,
    next_offsets,
    num_next,
    factors,
    coefficients,
    y,
):
    add_rows(
        num_vectors,
        base,
        offsets,
        num_rows,
        num_columns,
        next_base,
        next_offsets,
        num_next,
        factors,
        coefficients,
        y,
    )


@dataclass(frozen=True)
class Case:
    """Rows in memory, found by their offsets from the middle of it.

    Attributes:
        rows: [num_rows, width], in the order of the offsets, repeated ones included.
        memory: where they lie, in another order, between NaN.
        base: address from which offsets count.
        offsets: int64, those of the rows, and after them some of a row of NaN.
        next_offsets: rows that are wanted afterwards, one of NaN included: nothing of them shows.
    """

    rows: Tensor
    memory: Tensor
    base: int
    offsets: Tensor
    next_offsets: Tensor


def make_case(generator: torch.Generator, num_rows: int, width: int) -> Case:
    num_distinct = max(1, num_rows - num_rows // 3)  # so that some are repeated
    distinct = torch.randn(num_distinct, width, generator=generator)
    memory = rows_of(torch.cat((distinct, torch.full((1, width), torch.nan))))
    stride = width + GAP
    middle = GAP + num_distinct // 2 * stride
    starts = GAP + stride * torch.arange(num_distinct + 1) - middle
    drawn = torch.randint(num_distinct, (num_rows,), generator=generator)
    drawn[:num_distinct] = torch.randperm(num_distinct, generator=generator)
    drawn = drawn[torch.randperm(num_rows, generator=generator)]
    return Case(
        rows=distinct[drawn],
        memory=memory.memory,
        base=memory.memory.data_ptr() + 4 * middle,
        offsets=torch.cat((starts[drawn], starts[-1:].repeat(ROW_BLOCK))),
        next_offsets=starts[torch.tensor([num_distinct, 0, num_distinct // 2])],
    )


def addresses(rows: Tensor) -> tuple[int, ...]:
    """Of `MOST_VECTORS` rows; past the last one, null: it is not to be touched."""
    found = [row.data_ptr() for row in rows]
    return (*found, *[0] * (MOST_VECTORS - len(found)))


def dot(case: Case, x: Tensor, *, distance: int = ROW_BLOCK, num_next: int = 3) -> Tensor:
    """What `dot_rows` writes, [len(x), num_rows], nothing past the block of its last row.

    What fills that block up comes from rows that it was given.
    """
    num_rows, width = case.rows.shape
    room = -(-num_rows // ROW_BLOCK) * ROW_BLOCK
    x_rows, out = rows_of(x), poisoned_rows(len(x), room)
    run_dot_rows(
        len(x),
        case.base,
        case.offsets.data_ptr(),
        num_rows,
        width,
        case.next_offsets.data_ptr(),
        num_next,
        distance,
        addresses(x_rows.inner),
        addresses(out.inner),
    )
    out.assert_fences_hold()
    given = out.inner[:, :num_rows].clone()
    assert torch.equal(
        bits(out.inner[:, num_rows:]), bits(given[:, -1:].expand(-1, room - num_rows))
    )
    return given


def add(
    case: Case, factors: Tensor, coefficients: Tensor, y: Tensor, *, num_next: int = 3
) -> Tensor:
    """What `add_rows` makes of y, [len(y), num_columns], nothing beside it."""
    coefficient_rows, y_rows = rows_of(coefficients), rows_of(y)
    factor_row = rows_of(factors[None])
    run_add_rows(
        len(y),
        case.base,
        case.offsets.data_ptr(),
        case.rows.shape[0],
        y.shape[1],
        case.base,
        case.next_offsets.data_ptr(),
        num_next,
        factor_row.inner.data_ptr(),
        addresses(coefficient_rows.inner),
        addresses(y_rows.inner),
    )
    y_rows.assert_fences_hold()
    return y_rows.inner.clone()


# dot_rows


@pytest.mark.parametrize("num_vectors", range(1, MOST_VECTORS + 1))
@pytest.mark.parametrize("width", [LANES, 48, 64, 576])
def test_dot_rows(num_vectors, width) -> None:
    generator = torch.Generator().manual_seed(width + num_vectors)
    for num_rows in NUMS_ROWS:
        case = make_case(generator, num_rows, width)
        x = torch.randn(num_vectors, width, generator=generator)
        out = dot(case, x)
        magnitude = x.double().abs() @ case.rows.double().abs().T
        assert_sums(out, x.double() @ case.rows.double().T, magnitude, width)


@pytest.mark.parametrize("distance", [ROW_BLOCK, 2 * ROW_BLOCK, 16 * ROW_BLOCK])
@pytest.mark.parametrize("num_next", [1, 3])
def test_what_is_asked_for_ahead_changes_no_bit(distance, num_next) -> None:
    generator = torch.Generator().manual_seed(1)
    case = make_case(generator, 19, 64)
    x = torch.randn(3, 64, generator=generator)
    assert torch.equal(dot(case, x, distance=distance, num_next=num_next), dot(case, x))


def test_a_dot_product_does_not_depend_on_what_is_beside_it() -> None:
    """Bit for bit: not on the other vectors, nor on the other rows, nor on their places."""
    generator = torch.Generator().manual_seed(2)
    case = make_case(generator, 19, 576)
    x = torch.randn(MOST_VECTORS, 576, generator=generator)
    together = dot(case, x)
    for i in range(MOST_VECTORS):
        assert torch.equal(dot(case, x[i : i + 1])[0], together[i])
    assert torch.equal(dot(case, x.flip(0)), together.flip(0))
    for first, last in [(0, 1), (3, 4), (2, 9), (18, 19)]:
        part = Case(
            case.rows[first:last], case.memory, case.base, case.offsets[first:], case.next_offsets
        )
        assert torch.equal(dot(part, x), together[:, first:last])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_overflows_in_a_vector_stays_in_it(bad) -> None:
    generator = torch.Generator().manual_seed(3)
    case = make_case(generator, 7, 64)
    x = torch.randn(MOST_VECTORS, 64, generator=generator)
    clean = dot(case, x)
    x[2, 17] = bad
    out = dot(case, x)
    assert not out[2].isfinite().any()
    out[2] = clean[2]
    assert torch.equal(out, clean)


@pytest.mark.parametrize("num_rows", [1, 6, 8])
def test_what_overflows_in_a_row_stays_in_its_products(num_rows) -> None:
    generator = torch.Generator().manual_seed(4)
    case = make_case(generator, num_rows, 64)
    x = torch.randn(MOST_VECTORS, 64, generator=generator)
    clean = dot(case, x)
    bad = (case.base - case.memory.data_ptr()) // 4 + int(case.offsets[num_rows - 1])
    case.memory[bad + 63] = torch.nan
    is_bad = case.offsets[:num_rows] == case.offsets[num_rows - 1]
    out = dot(case, x)
    assert out[:, is_bad].isnan().all()
    assert torch.equal(out[:, ~is_bad], clean[:, ~is_bad])


# add_rows


@pytest.mark.parametrize("num_vectors", range(1, MOST_VECTORS + 1))
@pytest.mark.parametrize("num_columns", range(LANES, COLUMN_BLOCK + 1, LANES))
def test_add_rows(num_vectors, num_columns) -> None:
    generator = torch.Generator().manual_seed(num_columns + num_vectors)
    for num_rows in NUMS_ROWS:
        case = make_case(generator, num_rows, num_columns)
        factors = torch.randn(num_vectors, generator=generator)
        coefficients = torch.randn(num_vectors, num_rows, generator=generator)
        y = torch.randn(num_vectors, num_columns, generator=generator)
        out = add(case, factors, coefficients, y)
        weighted = factors.double()[:, None] * coefficients.double()
        magnitude = weighted.abs() @ case.rows.double().abs() + y.double().abs()
        assert_sums(out, y.double() + weighted @ case.rows.double(), magnitude, num_rows + 1)


def test_an_added_sum_does_not_depend_on_what_is_beside_it() -> None:
    """Bit for bit: not on the other vectors, nor on the other columns, nor on what comes next."""
    generator = torch.Generator().manual_seed(5)
    case = make_case(generator, 19, COLUMN_BLOCK)
    factors = torch.randn(MOST_VECTORS, generator=generator)
    coefficients = torch.randn(MOST_VECTORS, 19, generator=generator)
    y = torch.randn(MOST_VECTORS, COLUMN_BLOCK, generator=generator)
    together = add(case, factors, coefficients, y)
    assert torch.equal(add(case, factors, coefficients, y, num_next=1), together)
    for i in range(MOST_VECTORS):
        one = slice(i, i + 1)
        assert torch.equal(add(case, factors[one], coefficients[one], y[one]), together[one])
    for first in range(0, COLUMN_BLOCK, LANES):
        part = Case(
            case.rows[:, first:],
            case.memory,
            case.base + 4 * first,
            case.offsets,
            case.next_offsets,
        )
        out = add(part, factors, coefficients, y[:, first:])
        assert torch.equal(out, together[:, first:])


@pytest.mark.parametrize("place", ["factor", "coefficient", "y"])
def test_what_overflows_of_a_vector_stays_in_its_sums(place) -> None:
    generator = torch.Generator().manual_seed(6)
    case = make_case(generator, 5, COLUMN_BLOCK)
    factors = torch.randn(MOST_VECTORS, generator=generator)
    coefficients = torch.randn(MOST_VECTORS, 5, generator=generator)
    y = torch.randn(MOST_VECTORS, COLUMN_BLOCK, generator=generator)
    clean = add(case, factors, coefficients, y)
    {"factor": factors[1:2], "coefficient": coefficients[1, 3:4], "y": y[1]}[place].fill_(torch.nan)
    out = add(case, factors, coefficients, y)
    assert out[1].isnan().all()
    out[1] = clean[1]
    assert torch.equal(out, clean)


def test_what_overflows_in_a_row_stays_in_its_column() -> None:
    generator = torch.Generator().manual_seed(7)
    case = make_case(generator, 6, COLUMN_BLOCK)
    factors = torch.randn(MOST_VECTORS, generator=generator)
    coefficients = torch.randn(MOST_VECTORS, 6, generator=generator)
    y = torch.randn(MOST_VECTORS, COLUMN_BLOCK, generator=generator)
    clean = add(case, factors, coefficients, y)
    bad = (case.base - case.memory.data_ptr()) // 4 + int(case.offsets[2])
    case.memory[bad + 33] = torch.inf
    out = add(case, factors, coefficients, y)
    assert not out[:, 33].isfinite().any()
    out[:, 33] = clean[:, 33]
    assert torch.equal(out, clean)
