"""Runs a decoder over a page pool by hand, as an engine would, with nothing of an engine.

The pool starts as NaN, so that whatever is read without having been written shows. Pages are dealt
in a shuffled order, so that a sequence's pages are not adjacent.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from motet.kernels.types import AttentionBatch, Kernels
from motet.models.context import ForwardContext, LoraContext
from motet.models.decoder import Decoder

Chunk = tuple[str, list[int]]
"""A sequence's name, and its next tokens."""


class PagedRunner:
    """A pool, its free pages, and the pages and length of each sequence."""

    def __init__(
        self,
        decoder: Decoder,
        kernels: Kernels,
        *,
        seed: int,
        page_size: int = 4,
        num_pages: int = 96,
    ) -> None:
        shape = decoder.config.shape
        page_elems = 2 * page_size * shape.kv_size
        self.pool = torch.full(
            (shape.num_layers, num_pages, page_elems),
            torch.nan,
            dtype=decoder.dtype,
            device=decoder.device,
        )
        self.page_size = page_size
        generator = torch.Generator().manual_seed(seed)
        self._free = torch.randperm(num_pages, generator=generator).tolist()
        self._decoder = decoder
        self._kernels = kernels
        self._pages: dict[str, list[int]] = {}
        self._lengths: dict[str, int] = {}

    def take_pages(self, num_pages: int) -> list[int]:
        """Pages for something else than KV."""
        return [self._free.pop() for _ in range(num_pages)]

    @torch.inference_mode()
    def step(
        self,
        chunks: Sequence[Chunk],
        lora: LoraContext | None = None,
        logits_rows: Sequence[int] | None = None,
    ) -> Tensor:
        """Run the chunks as one batch; the logits of the asked-for rows, by default of all."""
        tokens: list[int] = []
        positions: list[int] = []
        kv_slots: list[int] = []
        query_starts = [0]
        for name, new_tokens in chunks:
            start = self._lengths.get(name, 0)
            end = start + len(new_tokens)
            pages = self._pages.setdefault(name, [])
            pages += self.take_pages(-(-end // self.page_size) - len(pages))
            tokens += new_tokens
            positions += range(start, end)
            kv_slots += [
                pages[p // self.page_size] * self.page_size + p % self.page_size
                for p in range(start, end)
            ]
            query_starts.append(len(tokens))
            self._lengths[name] = end
        rows = range(len(tokens)) if logits_rows is None else logits_rows
        return self._decoder.forward(
            torch.tensor(tokens, dtype=torch.int64),
            torch.tensor(list(rows), dtype=torch.int64),
            ForwardContext(
                pool=self.pool,
                kernels=self._kernels,
                attention=self._attention(chunks, query_starts),
                positions=torch.tensor(positions, dtype=torch.int64),
                kv_slots=torch.tensor(kv_slots, dtype=torch.int64),
                lora=lora,
            ),
        )

    def _attention(self, chunks: Sequence[Chunk], query_starts: list[int]) -> AttentionBatch:
        names = [name for name, _ in chunks]
        width = max(len(self._pages[name]) for name in names)
        # An entry past a sequence's end is any number; one that is no page shows if it is used.
        table = [
            self._pages[name] + [2**31 - 1] * (width - len(self._pages[name])) for name in names
        ]
        lengths = [self._lengths[name] for name in names]
        return AttentionBatch(
            page_table=torch.tensor(table, dtype=torch.int32),
            query_starts=torch.tensor(query_starts, dtype=torch.int32),
            context_lens=torch.tensor(lengths, dtype=torch.int32),
            max_query_len=max(len(new_tokens) for _, new_tokens in chunks),
            max_context_len=max(lengths),
            page_size=self.page_size,
        )
