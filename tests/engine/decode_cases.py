"""Random batches of decodes over a pool that shows what is read or written wrongly.

Owns: a tiny decoder, sequences with pages of random KV, and adapters in the pool. What belongs to
nobody is NaN.
Does not know: how the batches are run.
"""

import random
from collections.abc import Sequence as SequenceOf
from pathlib import Path

import torch
from torch import Tensor

from motet.core.sampling import SamplingParams
from motet.core.shape import MODULES
from motet.engine.batch_arrays import BatchArrays, batch_arrays
from motet.memory.device_pool import DevicePool, PackedAdapter, pack_adapter
from motet.memory.geometry import PageGeometry, Run
from motet.memory.residency import Placement
from motet.models.decoder import Decoder
from motet.models.loader import load_decoder
from motet.scheduler.page_table import PageTable
from motet.scheduler.policy import QueuedRequest
from motet.scheduler.sequence import Sequence
from tests.memory.strategies import random_deltas
from tests.models.tiny import VOCAB_SIZE, save_tiny_model

CPU = torch.device("cpu")
PAGE_SIZE = 16
MAX_MODEL_LEN = 64  # of the tiny models
MAX_RUNNING = 12


def tiny_decoder(directory: Path, name: str = "llama") -> Decoder:
    save_tiny_model(name, directory)
    return load_decoder(directory, CPU, torch.float32)


class DecodeWorld:
    """A pool with sequences and adapters in it."""

    def __init__(self, decoder: Decoder, seed: int, *, num_adapters: int, max_rank: int) -> None:
        self.rng = random.Random(seed)
        self.decoder = decoder
        self.geometry = PageGeometry(decoder.config.shape, PAGE_SIZE)
        num_pages = MAX_RUNNING * 4 + num_adapters * 64
        self.pool = DevicePool(self.geometry, num_pages, torch.float32, CPU)
        self.pool.data.fill_(torch.nan)
        self.free = self.rng.sample(range(num_pages), num_pages)
        self.table = PageTable(MAX_RUNNING)
        self.sequences: list[Sequence] = []
        self._generator = torch.Generator().manual_seed(seed)
        self._num_rows = 0
        for slot in range(num_adapters):
            self.load(slot, max_rank)

    def load(self, slot: int, max_rank: int) -> None:
        """Put an adapter of random ranks into a slot, in new pages."""
        packed = self._packed(max_rank)
        pages = tuple(self._take(packed.layout.num_pages))
        num_rows = packed.layout.num_rows
        self.pool.copy_in(packed, Placement("d", slot, pages, self._num_rows, num_rows))
        self._num_rows += num_rows

    def _packed(self, max_rank: int) -> PackedAdapter:
        shape = self.geometry.shape
        ranks = {
            (layer, module): self.rng.randint(1, max_rank)
            for layer in range(shape.num_layers)
            for module in MODULES
            if self.rng.random() < 0.7
        }
        ranks[0, MODULES[0]] = max_rank
        deltas = random_deltas(shape, ranks, self.rng.getrandbits(32))

        def rows_of(run: Run) -> Tensor:
            a, b = deltas[run.layer, run.module]
            return 0.02 * (b.T if run.is_b else a)

        return pack_adapter(self.geometry, torch.float32, ranks, rows_of, pinned=False)

    def add(self, slot: int | None) -> None:
        """A sequence that is about to decode, with a context of random length."""
        num_tokens = self.rng.randint(1, MAX_MODEL_LEN)
        tokens = [self.rng.randrange(VOCAB_SIZE) for _ in range(num_tokens)]
        sampling = SamplingParams(max_tokens=9, temperature=0.0)
        seq = Sequence(
            f"r{len(self.sequences)}", tokens, sampling, None, None, QueuedRequest(request_id="r")
        )
        seq.slot = slot
        seq.pages = self._take(self.geometry.num_kv_pages(num_tokens))
        seq.row = self.table.take_row()
        self.table.write(seq.row, 0, seq.pages)
        seq.num_computed_tokens = seq.num_scheduled_tokens = num_tokens - 1
        shape = (*self.pool.data[:, seq.pages].shape[:2], 2, PAGE_SIZE, self.geometry.shape.kv_size)
        kv = torch.full(shape, torch.nan).movedim(3, 2).flatten(1, 2)  # by token
        computed = kv[:, : num_tokens - 1]
        computed.copy_(torch.randn(computed.shape, generator=self._generator))
        kv = kv.unflatten(1, (len(seq.pages), PAGE_SIZE)).movedim(2, 3)
        self.pool.data[:, seq.pages] = kv.flatten(2)
        self.sequences.append(seq)

    def _take(self, num_pages: int) -> list[int]:
        return [self.free.pop() for _ in range(num_pages)]

    def batch(self, sequences: SequenceOf[Sequence]) -> BatchArrays:
        """One decode of each, which is scheduled anew each time."""
        chunks = []
        for seq in sequences:
            num_tokens = seq.num_tokens
            chunks.append(seq.schedule(1))
            seq.num_scheduled_tokens, seq.num_tokens = num_tokens - 1, num_tokens
        return batch_arrays(chunks, self.table, PAGE_SIZE, self.pool.empty_slot)

    def max_rank(self, arrays: BatchArrays) -> int:
        return int(self.pool.max_ranks[arrays.slots[: arrays.num_adapted]].max(initial=0))
