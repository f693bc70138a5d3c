"""Page sizes, and the packing of rank rows into pages."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.core.errors import ConfigError
from motet.core.shape import MODULES, ModelShape, Module
from motet.memory.geometry import (
    AdapterLayout,
    PageGeometry,
    lay_out_adapter,
    smallest_page_size,
)
from tests.memory.strategies import Ranks, adapter_ranks, geometries, model_shapes

LLAMA_8B = ModelShape(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
)


def row_lengths(layout: AdapterLayout) -> list[int]:
    return [run.row_elems for run in layout.runs for _ in range(run.num_rows)]


def first_fit_pages(geometry: PageGeometry, ranks: Ranks) -> int:
    """Pages that first-fit, longest row first, takes: one row after another, nothing clever."""
    shape = geometry.shape
    most = 1
    for layer in range(shape.num_layers):
        rows: list[int] = []
        for module in MODULES:
            rank = ranks.get((layer, module), 0)
            rows += [shape.in_features(module)] * rank + [shape.out_features(module)] * rank
        room: list[int] = []
        for length in sorted(rows, reverse=True):
            page = next((p for p, left in enumerate(room) if left >= length), len(room))
            if page == len(room):
                room.append(geometry.page_elems)
            room[page] -= length
        most = max(most, len(room))
    return most


@given(data=st.data(), geometry=geometries())
def test_rows_keep_apart_and_within_their_page(data: st.DataObject, geometry: PageGeometry) -> None:
    ranks = data.draw(adapter_ranks(geometry.shape))
    layout = lay_out_adapter(geometry, ranks)
    in_page: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    places = zip(layout.row_layers, layout.row_pages, layout.row_starts, strict=True)
    for (layer, page, start), length in zip(places, row_lengths(layout), strict=True):
        assert 0 <= page < layout.num_pages
        assert start >= 0
        assert start + length <= geometry.page_elems
        in_page[int(layer), int(page)].append((int(start), length))
    for rows in in_page.values():
        assert len(rows) <= geometry.max_rows_per_page
        rows.sort()
        for (start, length), (next_start, _) in itertools.pairwise(rows):
            assert start + length <= next_start


@given(data=st.data(), geometry=geometries())
def test_each_matrix_has_its_rows_and_no_other(data: st.DataObject, geometry: PageGeometry) -> None:
    shape = geometry.shape
    ranks = data.draw(adapter_ranks(shape))
    layout = lay_out_adapter(geometry, ranks)
    assert layout.num_rows == 2 * sum(ranks.values())
    assert layout.max_rank == max(ranks.values(), default=0)
    lengths = np.array(row_lengths(layout))
    numbers: list[int] = []
    for layer in range(shape.num_layers):
        for module in MODULES:
            rank = ranks.get((layer, module), 0)
            assert layout.ranks[layer, module] == rank
            for is_b, length in enumerate((shape.in_features(module), shape.out_features(module))):
                first = layout.run_starts[layer, module, is_b]
                assert all(layout.row_layers[first : first + rank] == layer)
                assert all(lengths[first : first + rank] == length)
                numbers += range(first, first + rank)
    assert sorted(numbers) == list(range(layout.num_rows))
    first = 0
    for run, stretches in zip(layout.runs, layout.stretches, strict=True):
        assert layout.run_starts[run.layer, run.module, int(run.is_b)] == first
        assert sum(each.num_rows for each in stretches) == run.num_rows
        for each in stretches:
            assert (layout.row_pages[first : first + each.num_rows] == each.page).all()
            assert layout.row_starts[first] == each.start
            first += each.num_rows


@given(data=st.data(), geometry=geometries())
def test_it_takes_the_pages_of_first_fit(data: st.DataObject, geometry: PageGeometry) -> None:
    ranks = data.draw(adapter_ranks(geometry.shape))
    layout = lay_out_adapter(geometry, ranks)
    assert layout.num_pages == first_fit_pages(geometry, ranks)
    elems = np.zeros(geometry.shape.num_layers, dtype=np.int64)
    np.add.at(elems, layout.row_layers, np.array(row_lengths(layout), dtype=np.int64))
    assert layout.num_pages >= -(-int(elems.max()) // geometry.page_elems)


def test_an_adapter_that_touches_nothing_has_no_rows_and_one_page() -> None:
    layout = lay_out_adapter(PageGeometry(LLAMA_8B, 16), {})
    assert (layout.num_pages, layout.num_rows, layout.max_rank) == (1, 0, 0)


def test_an_8b_adapter_of_rank_16_wastes_little() -> None:
    geometry = PageGeometry(LLAMA_8B, smallest_page_size(LLAMA_8B))
    ranks = {(layer, module): 16 for layer in range(32) for module in MODULES}
    layout = lay_out_adapter(geometry, ranks)
    num_elems = sum(row_lengths(layout))
    assert num_elems / (32 * layout.num_pages * geometry.page_elems) > 0.85


def test_only_what_is_touched_costs_pages() -> None:
    geometry = PageGeometry(LLAMA_8B, 16)
    q_and_v = {(layer, m): 16 for layer in range(32) for m in (Module.Q, Module.V)}
    # A and B of q and v: 16 rows each of 4096, 4096, 4096 and 1024; a page holds 8 of 4096.
    assert lay_out_adapter(geometry, q_and_v).num_pages == 7


def test_a_rank_8_adapter_on_attention_of_the_default_model_loses_no_page() -> None:
    shape = ModelShape(
        num_layers=30,
        hidden_size=576,
        intermediate_size=1536,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        vocab_size=49152,
    )
    geometry = PageGeometry(shape, smallest_page_size(shape))
    attention = (Module.Q, Module.K, Module.V, Module.O)
    layout = lay_out_adapter(geometry, {(i, m): 8 for i in range(30) for m in attention})
    num_elems = sum(row_lengths(layout)) // 30
    assert layout.num_pages == num_elems / geometry.page_elems == 5


def test_equal_ranks_share_one_layout() -> None:
    geometry = PageGeometry(LLAMA_8B, 16)
    ranks = {(0, Module.Q): 3, (1, Module.V): 2}
    again = lay_out_adapter(geometry, dict(reversed(ranks.items())))
    assert again is lay_out_adapter(geometry, ranks)


@given(shape=model_shapes())
def test_the_smallest_page_size_is_the_least_power_of_two_that_works(shape: ModelShape) -> None:
    page_size = smallest_page_size(shape)
    assert page_size >= 16
    assert page_size & (page_size - 1) == 0
    assert PageGeometry(shape, page_size).max_rows_per_page >= 1
    if page_size > 16:
        with pytest.raises(ConfigError):
            PageGeometry(shape, page_size // 2)


@given(shape=model_shapes(), page_size=st.integers(-1, 200))
def test_a_page_too_small_for_the_longest_row_is_refused(shape: ModelShape, page_size: int) -> None:
    longest = max(
        shape.hidden_size,
        shape.intermediate_size,
        shape.num_heads * shape.head_dim,
        shape.num_kv_heads * shape.head_dim,
    )
    page_elems = 2 * page_size * shape.num_kv_heads * shape.head_dim
    if page_elems >= longest:
        assert PageGeometry(shape, page_size).page_elems == page_elems
        return
    with pytest.raises(ConfigError) as caught:
        PageGeometry(shape, page_size)
    assert caught.value.param == "page_size"
    assert f"use at least {smallest_page_size(shape)}," in caught.value.message
    assert str(longest) in caught.value.message


@given(
    geometry=geometries(), num_tokens=st.integers(0, 5000), elem_bytes=st.sampled_from([1, 2, 4])
)
@settings(max_examples=50)
def test_kv_pages_and_bytes(geometry: PageGeometry, num_tokens: int, elem_bytes: int) -> None:
    num_pages = geometry.num_kv_pages(num_tokens)
    assert num_pages * geometry.page_size >= num_tokens
    assert (num_pages - 1) * geometry.page_size < num_tokens
    shape = geometry.shape
    kv_bytes = 2 * shape.num_kv_heads * shape.head_dim * elem_bytes * shape.num_layers
    assert geometry.page_bytes(elem_bytes) == geometry.page_size * kv_bytes
