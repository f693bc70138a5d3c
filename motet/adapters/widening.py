"""Stored factors to float32, and whether they are finite, on the calling thread alone.

Owns: exact widening of bfloat16, float16 and float32 tensors on the CPU.
Does not know: what a tensor is for.

NumPy does the work. torch would share it out over its pool of threads, which the running step
needs at the same time, and which cannot be made smaller for one thread only: on a busy machine
each of an adapter's hundreds of small tensors then waits for a thread that is not scheduled.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def largest_magnitude(tensor: Tensor) -> np.float32:
    """The largest absolute value in a float32, float16 or bfloat16 tensor that is not empty.

    It is not finite if any element is NaN or infinite: their bits, without the sign, are larger
    than all others.
    """
    bits = _bits(tensor)
    without_sign = np.iinfo(bits.dtype).max >> 1
    largest = np.array([(bits & without_sign).max()], bits.dtype)
    values = to_float32(torch.from_numpy(largest).view(tensor.dtype))
    return np.float32(values.item())


def is_finite(tensor: Tensor) -> bool:
    """Whether a float32, float16 or bfloat16 tensor, not empty, has no NaN and no infinity."""
    return bool(np.isfinite(largest_magnitude(tensor)))


def to_float32(tensor: Tensor, factor: float = 1.0) -> Tensor:
    """A float32, float16 or bfloat16 tensor as float32, in memory of its own, times `factor`.

    Widening is exact. The product is rounded once, with `factor` in float32, as torch does; what
    is too large becomes infinite.
    """
    if tensor.dtype == torch.bfloat16:  # NumPy does not have it: it is the upper half of a float32
        widened = np.left_shift(_bits(tensor), 16, dtype=np.uint32).view(np.float32)
    else:
        widened = tensor.contiguous().numpy().astype(np.float32)
    if factor != 1.0:
        with np.errstate(over="ignore"):
            widened *= np.float32(factor)
    return torch.from_numpy(widened)


def _bits(tensor: Tensor) -> NDArray[np.unsignedinteger]:
    integers = torch.uint32 if tensor.dtype == torch.float32 else torch.uint16
    bits: NDArray[np.unsignedinteger] = tensor.contiguous().view(integers).numpy()
    return bits
