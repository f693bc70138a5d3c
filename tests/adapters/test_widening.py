"""Widening and the check for NaN and infinity, against torch."""

import math

import pytest
import torch

from motet.adapters.widening import is_finite, to_float32

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def every_value(dtype: torch.dtype) -> torch.Tensor:
    """All finite values of a 16-bit type; for float32 a sample of bit patterns."""
    if dtype == torch.float32:
        generator = torch.Generator().manual_seed(0)
        low, high = -(2**31), 2**31 - 1
        bits = torch.randint(low, high, (1 << 16,), generator=generator, dtype=torch.int32)
    else:
        bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    values = bits.view(dtype)
    return values[torch.isfinite(values)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact(dtype):
    values = every_value(dtype)
    widened = to_float32(values)
    assert widened.dtype == torch.float32
    assert torch.equal(widened.view(torch.int32), values.float().view(torch.int32))
    assert widened.data_ptr() != values.data_ptr()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [0.1, 2.0, 1 / 3, 1e300])
def test_product_is_that_of_torch(dtype, factor):
    values = every_value(dtype)
    torch.testing.assert_close(
        to_float32(values, factor), values.float() * factor, rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout(dtype):
    values = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    for view in (values.t(), values[::2, 1:], values[:, :3]):
        assert torch.equal(to_float32(view), view.float())
        assert is_finite(view)


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite(dtype):
    values = every_value(dtype)
    assert is_finite(values)
    for value in (math.nan, -math.nan, math.inf, -math.inf):
        for at in (0, len(values) // 2, -1):
            spoiled = values.clone()
            spoiled[at] = value
            assert not is_finite(spoiled)
