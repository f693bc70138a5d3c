"""Batches for the attention tests, poisoned wherever a kernel must not look, and their answers."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motet.kernels.types import AttentionBatch

LAYER = 1


@dataclass(frozen=True)
class Case:
    q: Tensor
    pool: Tensor
    batch: AttentionBatch
    num_kv_heads: int
    scale: float
    sliding_window: int | None

    def arguments(self, device: str) -> tuple[object, ...]:
        """What `paged_attention` takes, on a device."""
        b = self.batch
        batch = AttentionBatch(
            page_table=b.page_table.to(device),
            query_starts=b.query_starts.to(device),
            context_lens=b.context_lens.to(device),
            max_query_len=b.max_query_len,
            max_context_len=b.max_context_len,
            page_size=b.page_size,
        )
        q, pool = self.q.to(device), self.pool.to(device)
        return q, pool, LAYER, batch, self.num_kv_heads, self.scale, self.sliding_window


def make_case(
    seed: int,
    query_lens: list[int],
    context_lens: list[int],
    *,
    num_heads: int = 6,
    num_kv_heads: int = 2,
    head_dim: int = 16,
    page_size: int = 16,
    sliding_window: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """A random batch.

    The pool is NaN but for the KV of the contexts: unused pages, page tails and the other layers.
    Pages are dealt out at random. Unused entries of the page table name a page of NaN. q is a view
    of a merged qkv tensor.
    """
    rng = torch.Generator().manual_seed(seed)
    num_pages = [-(-n // page_size) for n in context_lens]
    pool_pages = sum(num_pages) + 5
    order = torch.randperm(pool_pages, generator=rng)
    pool = torch.full((3, pool_pages, 2, page_size, num_kv_heads, head_dim), torch.nan)
    page_table = order[-1].repeat(len(context_lens), max(num_pages) + 2).to(torch.int32)
    for i, context_len in enumerate(context_lens):
        start = sum(num_pages[:i])
        page_table[i, : num_pages[i]] = order[start : start + num_pages[i]]
        kv = torch.randn(context_len, 2, num_kv_heads, head_dim, generator=rng)
        for j in range(context_len):
            pool[LAYER, page_table[i, j // page_size], :, j % page_size] = kv[j]
    num_tokens = sum(query_lens)
    merged = torch.randn(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim, generator=rng)
    merged = (3.0 * merged).to(dtype)  # scores far apart, so that the softmax is not flat
    return Case(
        q=merged[:, : num_heads * head_dim].view(num_tokens, num_heads, head_dim),
        pool=pool.to(dtype).view(3, pool_pages, -1),
        batch=AttentionBatch(
            page_table=page_table,
            query_starts=torch.tensor([0, *np.cumsum(query_lens)], dtype=torch.int32),
            context_lens=torch.tensor(context_lens, dtype=torch.int32),
            max_query_len=max(query_lens),
            max_context_len=max(context_lens),
            page_size=page_size,
        ),
        num_kv_heads=num_kv_heads,
        scale=head_dim**-0.5,
        sliding_window=sliding_window,
    )


def dense_attention(case: Case) -> Tensor:
    """The answer in float64, one token and one head at a time, written apart from the kernels."""
    q = case.q.double().numpy()
    num_heads, head_dim = q.shape[1:]
    b = case.batch
    pool = case.pool[LAYER].double().numpy()
    pages = pool.reshape(-1, 2, b.page_size, case.num_kv_heads, head_dim)
    out = np.full_like(q, np.nan)
    for i in range(b.num_seqs):
        context_len = int(b.context_lens[i])
        if b.query_starts[i] == b.query_starts[i + 1]:
            continue
        slots = [
            (int(b.page_table[i, j // b.page_size]), j % b.page_size) for j in range(context_len)
        ]
        kv = np.stack([pages[page, :, slot] for page, slot in slots])
        first, end = int(b.query_starts[i]), int(b.query_starts[i + 1])
        for t in range(first, end):
            position = context_len - (end - t)
            window = case.sliding_window or context_len
            oldest = max(0, position + 1 - window)
            for h in range(num_heads):
                g = h * case.num_kv_heads // num_heads
                scores = kv[oldest : position + 1, 0, g] @ q[t, h] * case.scale
                weights = np.exp(scores - scores.max())
                out[t, h] = weights @ kv[oldest : position + 1, 1, g] / weights.sum()
    return torch.from_numpy(out)
