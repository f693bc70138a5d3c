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

# The bits of the exponent: all of them are set in a NaN and in an infinity, and in nothing else.
_EXPONENT_BITS = {torch.float32: 0x7F800000, torch.float16: 0x7C00, torch.bfloat16: 0x7F80}


def is_finite(tensor: Tensor) -> bool:
    """Whether a float32, float16 or bfloat16 tensor, not empty, has no NaN and no infinity."""
    mask = _EXPONENT_BITS[tensor.dtype]
    return int((_bits(tensor) & mask).max()) != mask


def largest_magnitude(tensor: Tensor) -> np.float32:
    """The largest absolute value in a finite float32, float16 or bfloat16 tensor, not empty."""
    bits = _bits(tensor)
    largest = (bits & (np.iinfo(bits.dtype).max >> 1)).max()  # without the sign bit
    if tensor.dtype == torch.bfloat16:
        return np.float32((largest.astype(np.uint32) << 16).view(np.float32))
    return np.float32(largest.view(np.float16 if tensor.dtype == torch.float16 else np.float32))


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
