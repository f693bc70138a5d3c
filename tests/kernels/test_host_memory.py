"""Large tensors in host memory: zeros, aligned, their own, and given back."""

import gc
import mmap
import weakref

import pytest
import torch

from motet.kernels import host_memory
from motet.kernels.host_memory import HUGE_PAGE_BYTES, zeros_on_huge_pages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 5), (3, 5, 7), (HUGE_PAGE_BYTES + 1,)])
def test_zeros_at_the_start_of_a_huge_page(shape, dtype) -> None:
    x = zeros_on_huge_pages(shape, dtype)
    assert x.shape == shape
    assert x.dtype == dtype
    assert x.is_contiguous()
    assert x.numel() == 0 or x.data_ptr() % HUGE_PAGE_BYTES == 0
    assert torch.equal(x, torch.zeros(shape, dtype=dtype))
    x.fill_(7)  # from end to end
    assert (x == 7).all()


def test_tensors_share_nothing() -> None:
    first, second = (zeros_on_huge_pages((1000,), torch.float32) for _ in range(2))
    first.fill_(1)
    assert not second.any()
    assert (zeros_on_huge_pages((1000,), torch.float32) == 0).all()


def test_memory_lives_as_long_as_a_view_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    regions: list[weakref.ref[mmap.mmap]] = []

    class Region(mmap.mmap):
        def __new__(cls, *args: int, **kwargs: int) -> "Region":
            region = super().__new__(cls, *args, **kwargs)
            regions.append(weakref.ref(region))
            return region

    monkeypatch.setattr(host_memory.mmap, "mmap", Region)
    view = zeros_on_huge_pages((64, 1024), torch.float32)[3, 5:]
    gc.collect()
    assert regions[0]() is not None
    view.fill_(3)
    assert (view == 3).all()
    del view
    gc.collect()
    assert regions[0]() is None


def test_a_system_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(host_memory.mmap, "MADV_HUGEPAGE", raising=False)
    assert torch.equal(zeros_on_huge_pages((3, 5), torch.float32), torch.zeros(3, 5))


def test_a_kernel_without_huge_pages_gives_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999)  # it answers EINVAL, as one without would
    tensor = zeros_on_huge_pages((3, 5), torch.float32)
    assert torch.equal(tensor, torch.zeros(3, 5))
