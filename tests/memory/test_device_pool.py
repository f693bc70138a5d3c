"""Packing, copying in, and reading back through the tables, bit for bit."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motet.core.shape import MODULES, ModelShape, Module
from motet.memory.device_pool import DevicePool, PackedAdapter, num_pages_in, pack_adapter
from motet.memory.geometry import PageGeometry, Run
from motet.memory.residency import Placement
from tests.memory.strategies import Deltas, adapter_ranks, geometries, random_deltas, read_delta

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
UNWRITTEN = -7  # no offset, no row number and no rank is negative


def poisoned_pool(geometry: PageGeometry, num_pages: int, dtype: torch.dtype) -> DevicePool:
    """A pool whose every element and table entry shows whether it was written."""
    pool = DevicePool(geometry, num_pages, dtype, CPU)
    pool.data.fill_(float("nan"))
    for table in (pool.tables.row_offsets, pool.tables.run_starts, pool.tables.ranks):
        table.fill_(UNWRITTEN)
    return pool


def scattered(
    packed: PackedAdapter, pool: DevicePool, digest: str, rng: random.Random, free: list[int]
) -> Placement:
    """A placement on random ones of the free pages, which it takes from the list."""
    pages = rng.sample(free, packed.layout.num_pages)
    free[:] = [page for page in free if page not in pages]
    num_rows = packed.layout.num_rows
    row_capacity = pool.tables.row_offsets.shape[0] // 2  # half for each of two adapters
    first_row = rng.randint(0, row_capacity - num_rows)
    if digest == "second":
        first_row += row_capacity
    slots = range(2) if digest == "first" else range(2, pool.empty_slot)
    return Placement(digest, rng.choice(slots), tuple(pages), first_row, num_rows)


def packed_deltas(geometry: PageGeometry, dtype: torch.dtype, deltas: Deltas) -> PackedAdapter:
    def rows_of(run: Run) -> Tensor:
        a, b = deltas[run.layer, run.module]
        return b.T if run.is_b else a

    ranks = {key: a.shape[0] for key, (a, _) in deltas.items()}
    return pack_adapter(geometry, dtype, ranks, rows_of, pinned=False)


def assert_reads_back(pool: DevicePool, slot: int, deltas: Deltas) -> None:
    shape = pool.geometry.shape
    for layer in range(shape.num_layers):
        for module in MODULES:
            if (layer, module) not in deltas:
                assert pool.tables.ranks[slot, layer, module] == 0
                continue
            a, b = read_delta(pool.data, pool.tables, slot, layer, module, shape)
            want_a, want_b = deltas[layer, module]
            assert torch.equal(a, want_a.to(pool.data.dtype))
            assert torch.equal(b, want_b.to(pool.data.dtype))


def element_mask(pool: DevicePool, slot: int, deltas: Deltas) -> Tensor:
    """Which elements of the pool are the adapter's, by its tables."""
    mask = torch.zeros_like(pool.data, dtype=torch.bool)
    flat = mask.view(-1)
    for (layer, module), (a, b) in deltas.items():
        for is_b, length in enumerate((a.shape[1], b.shape[0])):
            first = int(pool.tables.run_starts[slot, layer, module, is_b])
            for offset in pool.tables.row_offsets[first : first + a.shape[0]].tolist():
                assert not flat[offset : offset + length].any(), "two rows overlap"
                flat[offset : offset + length] = True
    return mask


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), geometry=geometries(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_two_adapters_beside_kv(
    dtype: torch.dtype, data: st.DataObject, geometry: PageGeometry, seed: int
) -> None:
    shape = geometry.shape
    rng = random.Random(seed)
    both: dict[str, Deltas] = {
        digest: random_deltas(shape, data.draw(adapter_ranks(shape, min_size=1)), seed + index)
        for index, digest in enumerate(("first", "second"))
    }
    packed = {digest: packed_deltas(geometry, dtype, deltas) for digest, deltas in both.items()}
    num_adapter_pages = sum(p.layout.num_pages for p in packed.values())
    # As many pages again as the larger one: each has half of the row table to itself.
    num_pages = 2 * max(p.layout.num_pages for p in packed.values()) + 3
    pool = poisoned_pool(geometry, num_pages, dtype)
    before = [pool.data, pool.tables.row_offsets, pool.tables.run_starts, pool.tables.ranks]
    addresses = [(t.data_ptr(), t.shape, t.stride()) for t in before]
    free = list(range(num_pages))
    kv_page = free.pop(rng.randrange(num_pages))
    kv = pool.data[:, kv_page].view(
        shape.num_layers, 2, geometry.page_size, shape.num_kv_heads, shape.head_dim
    )
    kv.copy_(torch.rand(kv.shape, generator=torch.Generator().manual_seed(seed)))
    kv_before = kv.clone()

    placements = {d: scattered(p, pool, d, rng, free) for d, p in packed.items()}
    for digest, placement in placements.items():
        pool.copy_in(packed[digest], placement)

    assert len(free) == num_pages - 1 - num_adapter_pages
    for digest, placement in placements.items():
        max_rank = max(a.shape[0] for a, _ in both[digest].values())
        assert pool.max_ranks[placement.slot] == max_rank
        assert_reads_back(pool, placement.slot, both[digest])
        own = element_mask(pool, placement.slot, both[digest])
        pages = list(placement.pages)
        others = [page for page in range(num_pages) if page not in pages]
        assert not own[:, others].any()
        assert (pool.data[:, pages][~own[:, pages]] == 0).all()
    assert torch.equal(kv, kv_before)
    assert pool.data[:, free].isnan().all()
    assert_tables_written_only_at(pool, list(placements.values()))
    after = [pool.data, pool.tables.row_offsets, pool.tables.run_starts, pool.tables.ranks]
    assert [(t.data_ptr(), t.shape, t.stride()) for t in after] == addresses


def assert_tables_written_only_at(pool: DevicePool, placements: list[Placement]) -> None:
    rows = torch.ones(pool.tables.row_offsets.shape, dtype=torch.bool)
    slots = torch.ones(pool.tables.ranks.shape[0], dtype=torch.bool)
    for placement in placements:
        rows[placement.first_row : placement.first_row + placement.num_rows] = False
        slots[placement.slot] = False
    assert (pool.tables.row_offsets[rows] == UNWRITTEN).all()
    assert (pool.tables.row_offsets[~rows] >= 0).all()
    assert (pool.tables.run_starts[slots] == UNWRITTEN).all()
    assert (pool.tables.ranks[slots] == UNWRITTEN).all()
    assert (pool.tables.ranks[~slots] >= 0).all()


@given(data=st.data(), geometry=geometries(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_a_slot_forgets_the_adapter_before(
    data: st.DataObject, geometry: PageGeometry, seed: int
) -> None:
    shape = geometry.shape
    old, new = (
        random_deltas(shape, data.draw(adapter_ranks(shape, min_size=1)), seed + index)
        for index in range(2)
    )
    packed = [packed_deltas(geometry, torch.float32, d) for d in (old, new)]
    num_pages = max(p.layout.num_pages for p in packed)
    pool = poisoned_pool(geometry, num_pages, torch.float32)
    rng = random.Random(seed)
    for one in packed:
        pages = tuple(rng.sample(range(num_pages), one.layout.num_pages))
        pool.copy_in(one, Placement("digest", 0, pages, 0, one.layout.num_rows))
    assert_reads_back(pool, 0, new)


def test_the_empty_slot_is_nobodys_and_has_no_rows() -> None:
    """It stays empty when every other slot has been written, and no adapter may have it."""
    geometry = tiny_geometry()
    a = torch.ones(2, 3)
    packed = packed_deltas(geometry, torch.float32, {(0, Module.Q): (a, a.T.contiguous())})
    pool = DevicePool(geometry, 4, torch.float32, CPU)
    for slot in range(4):
        pool.copy_in(packed, Placement("d", slot, (slot,), 0, packed.layout.num_rows))
    assert pool.empty_slot == 4
    assert pool.tables.ranks.shape[0] == pool.tables.run_starts.shape[0] == 5
    assert (pool.tables.ranks[: pool.empty_slot].amax(dim=(1, 2)) == 2).all()
    assert (pool.tables.ranks[pool.empty_slot] == 0).all()
    assert pool.max_ranks.tolist() == [2, 2, 2, 2, 0]
    with pytest.raises(AssertionError, match="for no adapter"):
        pool.copy_in(packed, Placement("d", pool.empty_slot, (0,), 0, packed.layout.num_rows))


@given(data=st.data(), geometry=geometries(), dtype=st.sampled_from(DTYPES))
@settings(max_examples=50, deadline=None)
def test_the_pool_and_its_tables_fill_the_budget_but_never_exceed_it(
    data: st.DataObject, geometry: PageGeometry, dtype: torch.dtype
) -> None:
    budget = data.draw(st.integers(0, 20 * geometry.page_bytes(dtype.itemsize)))
    num_pages = num_pages_in(geometry, budget, dtype)

    def num_bytes(num_pages: int) -> int:
        pool = DevicePool(geometry, num_pages, dtype, CPU)
        tables = pool.tables
        tensors = (pool.data, tables.row_offsets, tables.run_starts, tables.ranks)
        return sum(tensor.nbytes for tensor in tensors)

    assert num_pages == 0 or num_bytes(num_pages) <= budget
    assert budget < num_bytes(num_pages + 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_rounds_once_to_the_dtype_of_the_pool(dtype: torch.dtype) -> None:
    geometry = tiny_geometry()
    a = torch.tensor([[1.0 + 2**-9, 1e-7, -3.1]]).expand(1, 3).double()
    b = torch.tensor([[1.0 / 3], [2.0], [-7e-6]]).double()
    packed = packed_deltas(geometry, dtype, {(0, Module.Q): (a, b)})
    assert packed.pages.dtype == dtype
    assert torch.equal(packed.pages[0, 0, :3], a[0].to(dtype))
    assert torch.equal(packed.pages[0, 0, 3:6], b[:, 0].to(dtype))


def tiny_geometry() -> PageGeometry:
    shape = ModelShape(
        num_layers=1,
        hidden_size=3,
        intermediate_size=3,
        num_heads=3,
        num_kv_heads=1,
        head_dim=1,
        vocab_size=11,
    )
    return PageGeometry(shape, 16)
