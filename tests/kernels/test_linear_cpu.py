"""The packed matrices of a CPU, and the loops that multiply them, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motet.kernels import linear_cpu_loops as loops
from motet.kernels.linear_cpu import WEIGHT_KINDS, PackedMatrix
from motet.kernels.tiles_cpu import PANEL_WIDTH, STEPS, TILE_ROWS
from tests.kernels.cpu_cases import (
    GAP,
    assert_sums,
    poisoned_rows,
    rows_of,
    thread_counts,
    threads,
)
from tests.kernels.fused_cases import bits

STORAGES = [torch.float32, torch.bfloat16, torch.int8]
WIDE = (1030, 576)  # so large that one row of it is divided among threads

over_storages = pytest.mark.parametrize("storage", STORAGES, ids=["float32", "bfloat16", "int8"])


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unpacked(packed: PackedMatrix) -> Tensor:
    """float64 [out_features, in_features], from the layout alone."""
    num_panels, in_features, _ = packed.panels.shape
    weight = packed.panels.double().transpose(1, 2).reshape(-1, in_features)
    assert len(weight) == num_panels * PANEL_WIDTH
    if packed.scales is not None:
        weight = weight * packed.scales.double()[:, None]
    return weight[: packed.out_features]


def fenced(packed: PackedMatrix) -> PackedMatrix:
    """The same, its panels and scales between what must not be read, and so its unused outputs."""
    poison = -128 if packed.panels.dtype == torch.int8 else torch.nan
    memory = torch.full((packed.panels.numel() + 2 * GAP,), poison, dtype=packed.panels.dtype)
    panels = memory[GAP:-GAP].view(packed.panels.shape)
    panels.copy_(packed.panels)
    if unused := -packed.out_features % PANEL_WIDTH:
        panels[-1, :, -unused:] = poison
    scales = packed.scales
    if scales is not None:
        scales = torch.cat((scales.new_full((GAP,), torch.nan), scales))[GAP:]
        scales[packed.out_features :] = torch.nan
    return PackedMatrix(panels, scales, packed.out_features)


def product(packed: PackedMatrix, x: Tensor, num_threads: int = 2) -> Tensor:
    """What the loops write, both x and y strided views between NaN."""
    x_rows, y_rows = rows_of(x), poisoned_rows(len(x), packed.out_features)
    loops.multiply(
        WEIGHT_KINDS[packed.panels.dtype],
        (x_rows.inner.data_ptr(), x_rows.inner.stride(0), len(x)),
        (
            packed.panels.data_ptr(),
            0 if packed.scales is None else packed.scales.data_ptr(),
            packed.out_features,
            x.shape[1],
            packed.panels.element_size(),
        ),
        (y_rows.inner.data_ptr(), y_rows.inner.stride(0), len(x)),
        num_threads,
    )
    y_rows.assert_fences_hold()
    return y_rows.inner.clone()


def check_product(y: Tensor, x: Tensor, packed: PackedMatrix) -> None:
    weight = unpacked(packed)
    magnitude = x.double().abs() @ weight.abs().T
    assert_sums(y, x.double() @ weight.T, magnitude, x.shape[1])


# Products.


@over_storages
@pytest.mark.parametrize("in_features", [STEPS, 8, 48, 576])
@pytest.mark.parametrize("out_features", [1, 31, 32, 33, 64, 100])
def test_any_number_of_rows(storage, in_features, out_features) -> None:
    packed = fenced(PackedMatrix.pack(random(1, out_features, in_features), storage))
    x = random(2, 41, in_features)
    for num_rows in range(41):
        check_product(product(packed, x[:num_rows]), x[:num_rows], packed)


@over_storages
@pytest.mark.parametrize(
    "num_rows",
    [
        250,
        loops.BLOCK_ROWS - 1,
        loops.BLOCK_ROWS,
        loops.BLOCK_ROWS + 1,
        2 * loops.BLOCK_ROWS + TILE_ROWS + 1,
    ],
)
def test_more_rows_than_a_block(storage, num_rows) -> None:
    packed = fenced(PackedMatrix.pack(random(3, 75, 48), storage))
    x = random(4, num_rows, 48)
    check_product(product(packed, x), x, packed)


@over_storages
@pytest.mark.parametrize("num_rows", [1, 2, 19])
def test_shares_of_threads(storage, num_rows) -> None:
    """Enough work to be divided, into fewer shares than panels."""
    packed = fenced(PackedMatrix.pack(random(5, *WIDE), storage))
    x = random(6, num_rows, WIDE[1])
    assert num_rows * WIDE[0] * WIDE[1] > loops.PARALLEL_MIN_PRODUCTS
    check_product(product(packed, x, num_threads=3), x, packed)


@over_storages
def test_more_shares_than_panels(storage) -> None:
    packed = fenced(PackedMatrix.pack(random(7, 33, 576), storage))
    x = random(8, 2 * loops.BLOCK_ROWS, 576)
    assert len(x) * 33 * 576 > loops.PARALLEL_MIN_PRODUCTS
    check_product(product(packed, x, num_threads=7), x, packed)


@settings(max_examples=60, deadline=None)
@given(
    storage=st.sampled_from(STORAGES),
    num_rows=st.integers(0, 3 * TILE_ROWS + 1),
    out_features=st.integers(1, 3 * PANEL_WIDTH),
    in_features=st.integers(1, 20).map(lambda n: n * STEPS),
    num_threads=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_any_shape(storage, num_rows, out_features, in_features, num_threads, seed) -> None:
    packed = fenced(PackedMatrix.pack(random(seed, out_features, in_features), storage))
    x = random(seed + 1, num_rows, in_features)
    check_product(product(packed, x, num_threads), x, packed)


@over_storages
@pytest.mark.parametrize("has_bias", [False, True])
def test_multiply(storage, has_bias, poisoned_memory) -> None:
    """The method itself: x a view, y fresh and contiguous."""
    packed = PackedMatrix.pack(random(9, 100, 48), storage)
    bias = random(10, 100) if has_bias else None
    for num_rows in (0, 1, 13, 40):
        x = rows_of(random(11, num_rows, 48))
        y = packed.multiply(x.inner, bias)
        x.assert_fences_hold()
        assert y.is_contiguous()
        weight = unpacked(packed)
        exact = x.inner.double() @ weight.T
        magnitude = x.inner.double().abs() @ weight.abs().T
        if bias is not None:
            exact, magnitude = exact + bias, magnitude + bias.abs()
        assert_sums(y, exact, magnitude, 48)


def test_one_row_for_all_tokens() -> None:
    """An expanded x, whose rows are zero elements apart."""
    packed = PackedMatrix.pack(random(12, 40, 16), torch.float32)
    x = random(13, 1, 16)
    assert torch.equal(
        packed.multiply(x.expand(15, 16), None), packed.multiply(x, None).expand(15, 40)
    )


# What a result may not depend on.


@over_storages
def test_a_row_does_not_depend_on_the_rows_beside_it(storage) -> None:
    """Bit for bit, in whatever place of whatever batch."""
    packed = fenced(PackedMatrix.pack(random(14, 75, 576), storage))
    x = random(15, loops.BLOCK_ROWS + 17, 576)
    together = product(packed, x)
    for row in (0, 5, TILE_ROWS, loops.BLOCK_ROWS - 1, loops.BLOCK_ROWS, len(x) - 1):
        assert torch.equal(product(packed, x[row : row + 1])[0], together[row])
    for first, last in [(0, 2), (3, 3 + TILE_ROWS), (1, 40), (50, len(x))]:
        assert torch.equal(product(packed, x[first:last]), together[first:last])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(16))
    assert torch.equal(product(packed, x[order]), together[order])


@over_storages
@pytest.mark.parametrize("num_rows", [1, 40])
def test_the_number_of_threads_changes_no_bit(storage, num_rows) -> None:
    packed = PackedMatrix.pack(random(17, *WIDE), storage)
    x = random(18, num_rows, WIDE[1])
    results = []
    for counts in thread_counts():
        with threads(*counts):
            results.append(packed.multiply(x, None))
    assert len(results) > 2
    assert all(torch.equal(each, results[0]) for each in results)


@over_storages
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("num_rows", [2, TILE_ROWS, 40])
def test_what_overflows_in_a_row_stays_there_and_shows(storage, bad, num_rows) -> None:
    packed = fenced(PackedMatrix.pack(random(19, 75, 48), storage))
    x = random(20, num_rows, 48)
    clean = product(packed, x)
    x[num_rows // 2, 31] = bad
    y = product(packed, x)
    assert not y[num_rows // 2].isfinite().any()
    y[num_rows // 2] = clean[num_rows // 2]
    assert torch.equal(y, clean)


@over_storages
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_overflows_in_a_weight_stays_in_its_output_and_shows(storage, bad) -> None:
    weight, x = random(21, 75, 48), random(22, 5, 48)
    clean = PackedMatrix.pack(weight, storage).multiply(x, None)
    weight[40, 7] = bad
    y = PackedMatrix.pack(weight, storage).multiply(x, None)
    assert not y[:, 40].isfinite().any()
    y[:, 40] = clean[:, 40]
    assert torch.equal(y, clean)


# What is stored.


@over_storages
@pytest.mark.parametrize("out_features", [1, 32, 75])
def test_the_layout(storage, out_features) -> None:
    """Panels of outputs side by side, those past the last one zero."""
    weight = random(23, out_features, 12)
    before = weight.clone()
    packed = PackedMatrix.pack(weight, storage)
    assert torch.equal(weight, before)
    num_panels = -(-out_features // PANEL_WIDTH)
    assert packed.panels.shape == (num_panels, 12, PANEL_WIDTH)
    assert packed.panels.dtype == storage
    assert packed.panels.is_contiguous()
    assert packed.out_features == out_features
    stored = weight
    if packed.scales is not None:
        stored = (weight / packed.scales[:out_features, None]).round()
    for n in range(num_panels * PANEL_WIDTH):
        column = packed.panels[n // PANEL_WIDTH, :, n % PANEL_WIDTH]
        expected = stored[n].to(storage) if n < out_features else torch.zeros(12).to(storage)
        assert torch.equal(column, expected)


def test_float32_is_kept() -> None:
    weight = random(24, 75, 48)
    packed = PackedMatrix.pack(weight, torch.float32)
    assert torch.equal(packed.rows(torch.arange(75)), weight)
    assert packed.num_bytes == 96 * 48 * 4


def test_bfloat16_is_rounded_once_and_then_exact() -> None:
    weight, x = random(25, 75, 48), random(26, 20, 48)
    packed = PackedMatrix.pack(weight, torch.bfloat16)
    rounded = weight.bfloat16().float()
    assert torch.equal(packed.rows(torch.arange(75)), rounded)
    assert packed.num_bytes == 96 * 48 * 2
    same = PackedMatrix.pack(rounded, torch.float32)
    assert torch.equal(packed.multiply(x, None), same.multiply(x, None))


def test_int8_is_within_half_a_step_of_its_output() -> None:
    weight = random(27, 75, 48) * torch.logspace(-12, 12, 75)[:, None]
    packed = PackedMatrix.pack(weight, torch.int8)
    assert packed.scales is not None
    assert packed.scales.dtype == torch.float32
    steps = weight.double().abs().amax(dim=1) / 127
    torch.testing.assert_close(packed.scales[:75].double(), steps, rtol=1e-7, atol=0)
    error = (unpacked(packed) - weight.double()).abs() / steps[:, None]
    assert error.max() <= 0.5 + 1e-5  # 127 steps, each rounded to float32
    largest = packed.panels.transpose(1, 2).reshape(-1, 48)[:75].int().abs().amax(dim=1)
    assert (largest == 127).all()
    assert packed.num_bytes == 96 * 48 + 96 * 4


def test_an_int8_output_of_zeros() -> None:
    weight, x = random(28, 40, 16), random(29, 7, 16)
    weight[3] = 0
    packed = PackedMatrix.pack(weight, torch.int8)
    assert torch.equal(packed.multiply(x, None)[:, 3], torch.zeros(7))
    assert torch.equal(packed.rows(torch.tensor([3]))[0], torch.zeros(16))
    check_product(packed.multiply(x, None), x, packed)


@over_storages
def test_a_weight_that_is_a_view(storage) -> None:
    weight = random(30, 75, 48)
    expected = PackedMatrix.pack(weight, storage)
    wide = torch.full((75, 50), torch.nan)
    wide[:, 1:-1] = weight
    for view in (weight.T.contiguous().T, wide[:, 1:-1]):
        packed = PackedMatrix.pack(view, storage)
        assert torch.equal(bits_of(packed.panels), bits_of(expected.panels))


def bits_of(panels: Tensor) -> Tensor:
    return panels if panels.dtype == torch.int8 else bits(panels)


@over_storages
def test_rows(storage) -> None:
    """In any order, repeated, or none; a copy."""
    packed = PackedMatrix.pack(random(31, 75, 48), storage)
    row_ids = torch.tensor([74, 0, 31, 32, 0, 74, 63])
    rows = packed.rows(row_ids)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.double(), unpacked(packed)[row_ids], rtol=1e-7, atol=0)
    rows.fill_(torch.nan)
    assert packed.rows(row_ids).isfinite().all()
    assert packed.rows(row_ids[:0]).shape == (0, 48)


# What is refused.


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(AssertionError, match="expected float32"):
        PackedMatrix.pack(random(32, 8, 8).double(), torch.float32)
    with pytest.raises(AssertionError, match=f"in_features is 6; {STEPS} must divide it"):
        PackedMatrix.pack(random(33, 8, 6), torch.float32)
    with pytest.raises(AssertionError, match="float16"):
        PackedMatrix.pack(random(34, 8, 8), torch.float16)


def test_what_would_read_foreign_memory_is_refused() -> None:
    packed = PackedMatrix.pack(random(35, 8, 8), torch.float32)
    x = random(36, 8, 8)
    with pytest.raises(AssertionError, match="expected float32"):
        packed.multiply(x.double(), None)
    for other in (x[:, :4], x[0], x[None], random(37, 8, 12)):
        with pytest.raises(AssertionError, match="expected 8 wide"):
            packed.multiply(other, None)
    with pytest.raises(AssertionError, match="adjacent"):
        packed.multiply(x.T, None)
