"""A batch as arrays on the host: what a step reads, before any of it is a tensor.

Owns: the order of chunks and tokens within a step.
Does not know: devices, nor how tensors are kept (`runner.py`, `decode_graphs.py`).

Tokens of one adapter stand side by side, so that a segment is a slice of the batch; tokens of the
base model come last, and so do those that have none but what a router chooses. No loop in Python
but one over the chunks for each of the few lists that only the sequences know.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from motet.scheduler.page_table import PageIds, PageTable
from motet.scheduler.sequence import ScheduledChunk

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BatchArrays:
    """A batch in the order in which it is computed. All integers are int64 but page ids.

    Attributes:
        chunks: the chunks, by slot.
        token_ids: [num_tokens]; where a token is awaited, any number.
        positions: [num_tokens]. Position of each token in its sequence.
        kv_slots: [num_tokens]. Where its KV goes: page_id * page_size + position within the page.
        page_table: int32 [num_chunks, most pages of a context].
        query_starts: [num_chunks + 1]. First token of each chunk, and the number of all.
        context_lens: [num_chunks].
        slots: [num_chunks]. Slots of the adapters, ascending; the empty slot for the base model. Of
            several adapters that all tokens of a chunk use, the least.
        rows: [num_chunks]. Rows of the sequences in the page table.
        awaits: bool [num_chunks]. Chunks whose one token is sampled by the step before.
        samples: bool [num_chunks]. Chunks that a token follows from.
        given_order: [num_sampling_chunks]. Where, among the sampling chunks as computed, each of
            them stands, in the order in which they were given.
        num_adapted: chunks with an adapter that all their tokens use; they come first.
        several: chunks of compositions and routed sets.
    """

    chunks: Sequence[ScheduledChunk]
    token_ids: IntArray
    positions: IntArray
    kv_slots: IntArray
    page_table: PageIds
    query_starts: IntArray
    context_lens: IntArray
    slots: IntArray
    rows: IntArray
    awaits: BoolArray
    samples: BoolArray
    given_order: IntArray
    num_adapted: int
    several: Sequence[int]

    @property
    def is_plain(self) -> bool:
        """Whether no token has more than one adapter, nor a router."""
        return not self.several

    @property
    def num_chunks(self) -> int:
        return len(self.chunks)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_decode(self) -> bool:
        """Whether every chunk is one token, from which another follows."""
        return self.num_tokens == self.num_chunks and bool(self.samples.all())

    @property
    def awaited(self) -> IntArray:
        """Tokens that are sampled by the step before, [num_awaited]."""
        return self.query_starts[:-1][self.awaits]

    @property
    def logits_rows(self) -> IntArray:
        """Tokens whose logits are wanted, [num_sampling_chunks]: the last of each such chunk."""
        return self.query_starts[1:][self.samples] - 1


def segment_starts(slots: npt.NDArray[np.integer]) -> IntArray:
    """Of ascending slots, where each run of equal ones begins, and where the last ends."""
    boundaries = np.flatnonzero(np.diff(slots)) + 1
    return np.concatenate([[0], boundaries, [len(slots)]])


def batch_arrays(
    chunks: Sequence[ScheduledChunk], table: PageTable, page_size: int, empty_slot: int
) -> BatchArrays:
    """Lay out the chunks of a batch.

    Args:
        chunks: at least one.
        table: the pages of the running sequences.
        page_size: KV tokens in a page.
        empty_slot: the slot of the base model, above all others.
    """
    slots, order = _by_slot(chunks, empty_slot)
    ordered = [chunks[i] for i in order.tolist()]
    rows = np.array([chunk.sequence.row for chunk in ordered])
    starts = np.array([chunk.start for chunk in ordered])
    num_new = np.array([chunk.num_new_tokens for chunk in ordered])
    samples = np.array([chunk.samples for chunk in ordered])
    context_lens = starts + num_new
    query_starts = np.zeros(len(chunks) + 1, np.int64)
    np.cumsum(num_new, out=query_starts[1:])
    chunk_of_token = np.repeat(np.arange(len(chunks)), num_new)
    positions = np.arange(query_starts[-1]) + (starts - query_starts[:-1])[chunk_of_token]
    page_table = table.gather(rows, -(-int(context_lens.max()) // page_size))
    page_ids = page_table[chunk_of_token, positions // page_size].astype(np.int64)
    return BatchArrays(
        chunks=ordered,
        token_ids=_token_ids(ordered),
        positions=positions,
        kv_slots=page_ids * page_size + positions % page_size,
        page_table=page_table,
        query_starts=query_starts,
        context_lens=context_lens,
        slots=slots,
        rows=rows,
        awaits=np.array([chunk.awaits_token for chunk in ordered]),
        samples=samples,
        given_order=order[samples].argsort(),
        num_adapted=int(np.searchsorted(slots, empty_slot)),
        several=[i for i, chunk in enumerate(ordered) if chunk.sequence.members is not None],
    )


def rows_of_chunks(arrays: BatchArrays, chunks: IntArray) -> tuple[IntArray, IntArray]:
    """The tokens of some chunks, one chunk after another, whichever they are.

    Returns:
        Rows of the batch, [num_rows], and where each chunk's begin among them, [len(chunks) + 1].
    """
    lengths = np.diff(arrays.query_starts)[chunks]
    starts = np.zeros(len(chunks) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    shifts = arrays.query_starts[chunks] - starts[:-1]
    return np.arange(starts[-1]) + np.repeat(shifts, lengths), starts


def _by_slot(chunks: Sequence[ScheduledChunk], empty_slot: int) -> tuple[IntArray, IntArray]:
    """The slots of the chunks, ascending, and the order that makes them so."""
    given = [chunk.sequence.slot for chunk in chunks]
    slots = np.array([empty_slot if slot is None else slot for slot in given])
    order = slots.argsort(kind="stable")
    return slots[order], order


def _token_ids(chunks: Sequence[ScheduledChunk]) -> IntArray:
    token_ids: list[int] = []
    for seq, start, num_new_tokens, samples, awaits_token in chunks:
        if awaits_token:
            token_ids.append(0)
        elif samples and num_new_tokens == 1 and seq.output_token_ids:
            token_ids.append(seq.output_token_ids[-1])
        else:
            token_ids += seq.token_ids(start, start + num_new_tokens)
    return np.array(token_ids)
