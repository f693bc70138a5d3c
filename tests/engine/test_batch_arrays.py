"""The arrays of a batch against the same told token by token; and decodes padded to a size."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.core.sampling import SamplingParams
from motet.engine.batch_arrays import batch_arrays, segment_starts
from motet.engine.decode_inputs import DecodeInputs
from motet.engine.last_tokens import LastTokens
from motet.scheduler.page_table import PageTable
from motet.scheduler.policy import QueuedRequest
from motet.scheduler.sequence import ScheduledChunk, Sequence

CPU = torch.device("cpu")
EMPTY_SLOT = 50
MAX_CHUNKS = 9


def chunk_of(
    rng: random.Random, table: PageTable, page_size: int, slot: int | None, kind: str
) -> ScheduledChunk:
    """A chunk of a new sequence: part of a prompt, all of it, a decode, or an awaited token."""
    prompt = [rng.randrange(1000) for _ in range(rng.randint(2, 30))]
    seq = Sequence(
        "r", prompt, SamplingParams(max_tokens=99), None, None, QueuedRequest(request_id="r")
    )
    seq.slot = slot
    seq.row = table.take_row()
    num_output_tokens = 0 if kind in ("part", "prompt") else rng.randint(1, 20)
    seq.pages = rng.sample(range(1000), -(-(len(prompt) + num_output_tokens) // page_size))
    table.write(seq.row, 0, seq.pages)
    if kind in ("part", "prompt"):
        seq.num_scheduled_tokens = rng.randrange(len(prompt) - 1)
        num_left = len(prompt) - seq.num_scheduled_tokens
        return seq.schedule(num_left if kind == "prompt" else rng.randint(1, num_left - 1))
    num_known = num_output_tokens - (kind == "awaited")
    seq.output_token_ids = [rng.randrange(1000) for _ in range(num_known)]
    seq.num_tokens += num_output_tokens
    seq.num_scheduled_tokens = seq.num_tokens - 1
    return seq.schedule(1)


@given(
    seed=st.integers(0, 2**32 - 1),
    page_size=st.integers(1, 16),
    given=st.lists(
        st.tuples(
            st.none() | st.integers(0, 3), st.sampled_from(["part", "prompt", "decode", "awaited"])
        ),
        min_size=1,
        max_size=MAX_CHUNKS,
    ),
)
@settings(max_examples=200, deadline=None)
def test_each_token_has_what_is_its_own(
    seed: int, page_size: int, given: list[tuple[int | None, str]]
) -> None:
    rng = random.Random(seed)
    table = PageTable(MAX_CHUNKS)
    chunks = [chunk_of(rng, table, page_size, slot, kind) for slot, kind in given]
    arrays = batch_arrays(chunks, table, page_size, EMPTY_SLOT)
    slots = [EMPTY_SLOT if slot is None else slot for slot, _ in given]
    assert sorted(map(id, arrays.chunks)) == sorted(map(id, chunks))
    assert arrays.slots.tolist() == sorted(slots)
    assert arrays.num_adapted == sum(slot is not None for slot, _ in given)
    assert (arrays.num_chunks, arrays.num_tokens) == (
        len(chunks),
        sum(chunk.num_new_tokens for chunk in chunks),
    )
    token = 0
    awaited, logits_rows = [], []
    for index, chunk in enumerate(arrays.chunks):
        seq = chunk.sequence
        assert arrays.slots[index] == (EMPTY_SLOT if seq.slot is None else seq.slot)
        assert arrays.rows[index] == seq.row
        assert arrays.query_starts[index] == token
        assert arrays.context_lens[index] == chunk.end
        num_pages = -(-chunk.end // page_size)
        assert arrays.page_table[index, :num_pages].tolist() == seq.pages[:num_pages]
        tokens = seq.prompt_token_ids + seq.output_token_ids
        for position in range(chunk.start, chunk.end):
            if chunk.awaits_token:
                assert position == len(tokens)
                awaited.append(token)
            else:
                assert arrays.token_ids[token] == tokens[position]
            assert arrays.positions[token] == position
            page = seq.pages[position // page_size]
            assert arrays.kv_slots[token] == page * page_size + position % page_size
            token += 1
        if chunk.samples:
            logits_rows.append(token - 1)
    assert arrays.query_starts[-1] == token
    assert arrays.awaited.tolist() == awaited
    assert arrays.logits_rows.tolist() == logits_rows
    computed = [id(chunk) for chunk in arrays.chunks if chunk.samples]
    in_given_order = [id(chunk) for chunk in chunks if chunk.samples]
    assert [computed[i] for i in arrays.given_order] == in_given_order
    only_decodes = all(chunk.samples and chunk.num_new_tokens == 1 for chunk in chunks)
    assert arrays.is_decode == only_decodes


def test_segments_are_runs_of_one_slot() -> None:
    assert segment_starts(np.array([2, 2, 5, 7, 7, 7])).tolist() == [0, 2, 3, 6]
    assert segment_starts(np.array([4])).tolist() == [0, 1]


def test_a_batch_is_padded_with_tokens_that_are_nobodys() -> None:
    rng = random.Random(0)
    inputs = DecodeInputs(8, 16, EMPTY_SLOT, CPU)
    for num_seqs, size in ((8, 8), (5, 8), (2, 2), (3, 4)):  # what was there before must not stay
        slots = [None, 3, 1, 3, None, 0, 1, 2][:num_seqs]
        table = PageTable(MAX_CHUNKS)
        chunks = [chunk_of(rng, table, 4, slot, "decode") for slot in slots]
        arrays = batch_arrays(chunks, table, 4, EMPTY_SLOT)
        inputs.fill(arrays, size)
        num_padding = size - num_seqs
        assert inputs.token_ids(size)[:num_seqs].tolist() == arrays.token_ids.tolist()
        assert inputs.positions(size)[:num_seqs].tolist() == arrays.positions.tolist()
        assert inputs.kv_slots(size).tolist() == [*arrays.kv_slots, *[-1] * num_padding]
        assert inputs.logits_rows(size).tolist() == list(range(size))
        attention = inputs.attention(size, 4)
        assert attention.num_seqs == size
        assert attention.query_starts.tolist() == [*range(num_seqs + 1), *[num_seqs] * num_padding]
        assert attention.context_lens.tolist() == [*arrays.context_lens, *[0] * num_padding]
        assert (attention.max_query_len, attention.max_context_len) == (1, 64)
        width = arrays.page_table.shape[1]
        assert attention.page_table[:num_seqs, :width].tolist() == arrays.page_table.tolist()
        pairs = inputs.pairs(size, 16)
        expected_slots = [*arrays.slots, *[EMPTY_SLOT] * num_padding]
        assert pairs.slots.tolist() == expected_slots
        assert pairs.tokens.tolist() == list(range(size))
        assert pairs.weights.tolist() == [1.0] * size
        starts = [i for i in range(size) if i == 0 or expected_slots[i] != expected_slots[i - 1]]
        num_segments = len(starts)
        assert pairs.segment_starts.tolist() == [*starts, *[size] * (size + 1 - num_segments)]
        assert pairs.max_rank == 16


def test_an_awaited_token_is_the_one_that_its_row_has_sampled_last() -> None:
    rng = random.Random(1)
    table = PageTable(4)
    chunks = [
        chunk_of(rng, table, 4, slot, kind)
        for slot, kind in ((2, "awaited"), (None, "decode"), (1, "awaited"), (None, "part"))
    ]
    arrays = batch_arrays(chunks, table, 4, EMPTY_SLOT)
    last_tokens = LastTokens(4, CPU)
    sampled = torch.tensor([11, 22, 33])
    last_tokens.keep(arrays, sampled)  # one for each of the three that sample, as computed
    by_chunk = dict(zip((id(c) for c in arrays.chunks if c.samples), [11, 22, 33], strict=True))
    token_ids = torch.from_numpy(arrays.token_ids.copy())
    last_tokens.fill_in(arrays, token_ids)
    expected = arrays.token_ids.tolist()
    for token in arrays.awaited:
        index = int(np.searchsorted(arrays.query_starts, token))
        expected[token] = by_chunk[id(arrays.chunks[index])]
    assert token_ids.tolist() == expected
    assert {11, 22} <= {*expected}


@pytest.mark.parametrize("num_pages", [3, 16, 17, 40, 100])
def test_a_row_is_as_wide_as_it_has_to_be(num_pages: int) -> None:
    table = PageTable(3)
    pages = list(range(7, 7 + num_pages))
    rows = [table.take_row() for _ in range(3)]
    assert sorted(rows) == [0, 1, 2]
    table.write(rows[0], 0, [5])
    table.write(rows[2], 0, pages[:2])
    table.write(rows[2], 2, pages[2:])
    assert table.pages(rows[2], num_pages) == pages
    gathered = table.gather(np.array([rows[2], rows[0]]), num_pages)
    assert gathered.dtype == np.int32
    assert gathered[0].tolist() == pages
    assert gathered[1, 0] == 5
    gathered[:] = -1  # a copy: the table stays
    assert table.pages(rows[0], 1) == [5]
    table.give_back(rows[1])
    assert table.take_row() == rows[1]
