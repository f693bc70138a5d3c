"""One step on the device: a batch of chunks becomes tensors, logits, and tokens.

Owns: the order of tokens within a batch, and the index tensors that the kernels read.
Does not know: why these sequences were chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motet.engine.sampler import SamplingRow, sample
from motet.kernels.types import AttentionBatch, Kernels, LoraPairs
from motet.memory.device_pool import DevicePool
from motet.models.context import ForwardContext, LoraContext
from motet.models.decoder import Decoder
from motet.scheduler.sequence import Batch, ScheduledChunk


@dataclass(frozen=True)
class ResidentAdapter:
    """What a step must know of an adapter on the device."""

    slot: int
    max_rank: int


class ModelRunner:
    """Runs the decoder over batches.

    Args:
        decoder: the model.
        pool: KV and adapter weights.
        kernels: the device's kernels.
        resident_adapter: gives the slot and rank of a digest that is on the device.
    """

    def __init__(
        self,
        decoder: Decoder,
        pool: DevicePool,
        kernels: Kernels,
        resident_adapter: Callable[[str], ResidentAdapter],
    ) -> None:
        self._decoder = decoder
        self._pool = pool
        self._kernels = kernels
        self._resident_adapter = resident_adapter
        self._device = pool.data.device

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run one token, so that kernels are compiled before a request waits for them.

        It needs an empty pool: it writes to page 0, and counts on slot 0 having no rank rows.
        """
        zero = self._tensor([0], torch.int64)
        bounds = self._tensor([0, 1], torch.int32)
        attention = AttentionBatch(
            page_table=self._tensor([[0]], torch.int32),
            query_starts=bounds,
            context_lens=self._tensor([1], torch.int32),
            max_query_len=1,
            max_context_len=1,
            page_size=self._pool.geometry.page_size,
        )
        pairs = LoraPairs(
            tokens=self._tensor([0], torch.int32),
            slots=self._tensor([0], torch.int32),
            weights=torch.ones(1, device=self._device),
            segment_starts=bounds,
            max_rank=1,
        )
        context = ForwardContext(
            pool=self._pool.data,
            kernels=self._kernels,
            attention=attention,
            positions=zero,
            kv_slots=zero,
            lora=LoraContext(tables=self._pool.tables, pairs=pairs),
        )
        self._decoder.forward(zero, zero, context)

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[int | None]:
        """Compute the chunks and sample a token for each that ends at its last known token.

        Returns the tokens in the order of the sampling chunks of the batch; None where the logits
        were not finite.
        """
        adapters = [self._adapter_of(chunk) for chunk in batch.chunks]
        # Tokens of one adapter side by side, base tokens first: a segment is a slice of the batch.
        order = sorted(range(len(batch.chunks)), key=lambda i: _slot_order(adapters[i]))
        chunks = [batch.chunks[i] for i in order]
        token_ids = np.concatenate(
            [chunk.sequence.token_ids(chunk.start, chunk.end) for chunk in chunks]
        )
        last_rows = np.cumsum([chunk.num_new_tokens for chunk in chunks]) - 1
        samples = np.array([chunk.samples for chunk in chunks])
        logits = self._decoder.forward(
            self._tensor(token_ids, torch.int64),
            self._tensor(last_rows[samples], torch.int64),
            self._context(chunks, [adapters[i] for i in order]),
        )
        tokens = sample(logits, [_sampling_row(chunk) for chunk in chunks if chunk.samples])
        sampled = iter(tokens)
        by_index = {i: next(sampled) for i in order if batch.chunks[i].samples}
        return [by_index[i] for i in sorted(by_index)]

    def _adapter_of(self, chunk: ScheduledChunk) -> ResidentAdapter | None:
        digest = chunk.sequence.digest
        return None if digest is None else self._resident_adapter(digest)

    def _context(
        self, chunks: Sequence[ScheduledChunk], adapters: Sequence[ResidentAdapter | None]
    ) -> ForwardContext:
        page_size = self._pool.geometry.page_size
        positions = np.concatenate([np.arange(chunk.start, chunk.end) for chunk in chunks])
        page_table = _page_table(chunks)
        num_new = np.array([chunk.num_new_tokens for chunk in chunks])
        rows = np.repeat(np.arange(len(chunks)), num_new)
        kv_slots = page_table[rows, positions // page_size].astype(np.int64) * page_size
        kv_slots += positions % page_size
        context_lens = np.array([chunk.end for chunk in chunks])
        attention = AttentionBatch(
            page_table=self._tensor(page_table, torch.int32),
            query_starts=self._tensor(np.concatenate([[0], np.cumsum(num_new)]), torch.int32),
            context_lens=self._tensor(context_lens, torch.int32),
            max_query_len=int(num_new.max()),
            max_context_len=int(context_lens.max()),
            page_size=page_size,
        )
        return ForwardContext(
            pool=self._pool.data,
            kernels=self._kernels,
            attention=attention,
            positions=self._tensor(positions, torch.int64),
            kv_slots=self._tensor(kv_slots, torch.int64),
            lora=self._lora(num_new, adapters),
        )

    def _lora(
        self, num_new: np.ndarray, adapters: Sequence[ResidentAdapter | None]
    ) -> LoraContext | None:
        """The pairs of a batch in which tokens are sorted by slot; None without any adapter."""
        slots = np.array([adapter.slot for adapter in adapters if adapter is not None])
        if len(slots) == 0:
            return None
        first = len(adapters) - len(slots)  # chunks of the base model come first
        first_token = int(num_new[:first].sum())
        token_slots = np.repeat(slots, num_new[first:])
        num_pairs = len(token_slots)
        boundaries = np.flatnonzero(np.diff(token_slots)) + 1
        pairs = LoraPairs(
            tokens=self._tensor(np.arange(first_token, first_token + num_pairs), torch.int32),
            slots=self._tensor(token_slots, torch.int32),
            weights=torch.ones(num_pairs, dtype=torch.float32, device=self._device),
            segment_starts=self._tensor(
                np.concatenate([[0], boundaries, [num_pairs]]), torch.int32
            ),
            max_rank=max(adapter.max_rank for adapter in adapters if adapter is not None),
        )
        return LoraContext(tables=self._pool.tables, pairs=pairs)

    def _tensor(
        self, values: np.ndarray | list[int] | list[list[int]], dtype: torch.dtype
    ) -> Tensor:
        return torch.as_tensor(values, dtype=dtype).to(self._device)


def _slot_order(adapter: ResidentAdapter | None) -> int:
    return 0 if adapter is None else adapter.slot + 1


def _page_table(chunks: Sequence[ScheduledChunk]) -> np.ndarray:
    """int32 [num_seqs, most pages]; entries past a sequence's own pages are 0 and never read."""
    table = np.zeros((len(chunks), max(len(chunk.sequence.pages) for chunk in chunks)), np.int32)
    for row, chunk in enumerate(chunks):
        table[row, : len(chunk.sequence.pages)] = chunk.sequence.pages
    return table


def _sampling_row(chunk: ScheduledChunk) -> SamplingRow:
    sequence = chunk.sequence
    return SamplingRow(
        params=sequence.sampling,
        position=sequence.num_tokens,
        prompt_token_ids=sequence.prompt_token_ids,
        output_token_ids=sequence.output_token_ids,
    )
