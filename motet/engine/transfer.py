"""Small tensors between host and device, without either waiting for the other.

Owns: the way that a step's index tensors and sampled tokens take.
Does not know: what they mean.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Values = np.ndarray | Sequence[int] | Sequence[float]


def upload(values: Values, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these values on the device; on a CPU it shares the memory of an array.

    A copy from pageable memory would wait until the device has done all that it was given before.
    Page-locked memory comes from torch's cache, which hands it out again only after the copy.
    """
    host = torch.as_tensor(values, dtype=dtype)
    if device.type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)


def assign(target: Tensor, values: np.ndarray) -> None:
    """Overwrite a tensor with values of its dtype and shape, as `upload` makes one."""
    host = torch.from_numpy(values)
    if target.device.type != "cpu":
        host = host.pin_memory()
    target.copy_(host, non_blocking=True)


class Download:
    """A tensor on its way to the host, behind all that the device was given before."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor
        self._copied: torch.Event | None = None
        if tensor.device.type != "cpu":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._copied = torch.Event(tensor.device)
            self._copied.record()

    def wait(self) -> np.ndarray:
        """Its values, once they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.numpy()
