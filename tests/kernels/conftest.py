"""Fixtures of the kernel tests."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from motet.kernels import lora_triton
from motet.kernels.lora_triton_sizes import ExpandSizes, ShrinkSizes

SetSizes = Callable[[ShrinkSizes, ExpandSizes], None]


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floats that `torch.empty` returns are NaN."""
    empty = torch.empty

    def poisoned(*args: object, **kwargs: object) -> Tensor:
        memory = empty(*args, **kwargs)
        return memory.fill_(torch.nan) if memory.is_floating_point() else memory

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def set_sizes(monkeypatch: pytest.MonkeyPatch) -> SetSizes:
    def set_both(shrink: ShrinkSizes, expand: ExpandSizes) -> None:
        monkeypatch.setattr(lora_triton, "shrink_sizes", lambda shape: shrink)
        monkeypatch.setattr(lora_triton, "expand_sizes", lambda shape: expand)

    return set_both
