"""How far a result is from its float64 reference, and poison for what a kernel may forget to write.

Owns: the measure of an error, and the roundings that tolerances are made of.
Does not know: any kernel.
"""

import torch
from torch import Tensor

# Of a sum in float32, relative to the sum of its terms' absolutes. Sums of n terms in a tree or on
# tensor cores err by far less for random terms, while one term of 14336 left out, or a product in
# TF32 where float32 was asked for, is more than it.
SUM_ERROR = 2.0**-19


def roundoff(dtype: torch.dtype, times: int = 1) -> float:
    """The largest relative error of so many roundings to nearest, one after another."""
    return float((1 + torch.finfo(dtype).eps / 2) ** times - 1)


def smallest(dtype: torch.dtype) -> float:
    """The distance of the numbers around zero."""
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps


def worst_error(got: Tensor, want: Tensor, tolerance: Tensor) -> float:
    """max |got - want| / tolerance, element by element; 0 for no elements, inf where one is NaN.

    Args:
        got: what a kernel computed, any dtype.
        want, tolerance: float64, of the same shape; a tolerance of 0 asks for equality.
    """
    assert got.shape == want.shape == tolerance.shape
    if got.numel() == 0:
        return 0.0
    error = (got.double() - want).abs()
    ratio = torch.where(error == 0, 0.0, error / tolerance)
    return float(ratio.nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def unequal(got: Tensor, before: Tensor) -> float:
    """0 where all bits are the same, else inf: for memory that must not change, NaN included."""
    integers = {2: torch.int16, 4: torch.int32}[got.itemsize]
    is_same = torch.equal(got.view(integers), before.view(integers))
    return 0.0 if is_same else float("inf")


def poison_free_memory(device: torch.device, num_bytes: int) -> None:
    """Have the allocator's next block of this size hold NaN, so that what is not written shows."""
    torch.full((num_bytes // 4,), torch.nan, dtype=torch.float32, device=device)
