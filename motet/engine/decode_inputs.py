"""What a captured decode step reads: tensors that stay where they are while their values change.

Owns: the buffers, and how a batch is padded to a size that was captured.
Does not know: which sizes there are, nor when a graph is captured (`decode_graphs.py`).

Every token is one sequence's, so many indices are constant. A padding token is stored nowhere (its
KV slot is negative), belongs to no sequence (the query starts repeat), and has the empty slot.
"""

import numpy as np
import torch
from torch import Tensor

from motet.engine.batch_arrays import BatchArrays, segment_starts
from motet.engine.transfer import assign
from motet.kernels.types import AttentionBatch, LoraPairs


class DecodeInputs:
    """Buffers for decodes of up to `max_size` sequences; to begin with, all are padding.

    Args:
        max_size: most sequences of a batch.
        max_pages: most pages of a sequence.
        empty_slot: the slot without adapter.
        device: where the steps run.
    """

    def __init__(
        self, max_size: int, max_pages: int, empty_slot: int, device: torch.device
    ) -> None:
        self._empty_slot = empty_slot
        self._longs = torch.zeros(3, max_size, dtype=torch.int64, device=device)
        self._token_ids, self._positions, self._kv_slots = self._longs.unbind()
        self._ints = torch.zeros(4, max_size + 1, dtype=torch.int32, device=device)
        self._query_starts, self._context_lens, self._slots, self._segment_starts = (
            self._ints.unbind()
        )
        self._page_table = torch.zeros(max_size, max_pages, dtype=torch.int32, device=device)
        self._rows = torch.arange(max_size, dtype=torch.int64, device=device)
        self._tokens = self._rows.int()
        self._weights = torch.ones(max_size, dtype=torch.float32, device=device)
        self._kv_slots.fill_(-1)
        self._slots.fill_(empty_slot)

    def fill(self, arrays: BatchArrays, size: int) -> None:
        """Take a batch of decodes, and pad it to `size` sequences."""
        num_seqs, num_pages = arrays.page_table.shape
        longs = np.zeros(self._longs.shape, np.int64)
        longs[:2, :num_seqs] = arrays.token_ids, arrays.positions
        longs[2] = -1
        longs[2, :num_seqs] = arrays.kv_slots
        ints = np.zeros(self._ints.shape, np.int32)
        ints[0] = num_seqs
        ints[0, : num_seqs + 1] = arrays.query_starts
        ints[1, :num_seqs] = arrays.context_lens
        ints[2] = self._empty_slot
        ints[2, :num_seqs] = arrays.slots
        starts = segment_starts(ints[2, :size])
        ints[3] = size
        ints[3, : len(starts)] = starts
        assign(self._longs, longs)
        assign(self._ints, ints)
        assign(self._page_table[:num_seqs, :num_pages], arrays.page_table)

    def token_ids(self, size: int) -> Tensor:
        """int64 [size]."""
        return self._token_ids[:size]

    def positions(self, size: int) -> Tensor:
        """int64 [size]."""
        return self._positions[:size]

    def kv_slots(self, size: int) -> Tensor:
        """int64 [size]."""
        return self._kv_slots[:size]

    def logits_rows(self, size: int) -> Tensor:
        """int64 [size]: each token's logits are wanted."""
        return self._rows[:size]

    def attention(self, size: int, page_size: int) -> AttentionBatch:
        """The sequences, of which none is longer than its row of the page table."""
        return AttentionBatch(
            page_table=self._page_table[:size],
            query_starts=self._query_starts[: size + 1],
            context_lens=self._context_lens[:size],
            max_query_len=1,
            max_context_len=self._page_table.shape[1] * page_size,
            page_size=page_size,
        )

    def pairs(self, size: int, max_rank: int) -> LoraPairs:
        """A pair for each token. There are as many segments as tokens; the last may be empty."""
        return LoraPairs(
            tokens=self._tokens[:size],
            slots=self._slots[:size],
            weights=self._weights[:size],
            segment_starts=self._segment_starts[: size + 1],
            max_rank=max_rank,
        )
