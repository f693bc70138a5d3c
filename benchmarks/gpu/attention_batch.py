"""Batches for attention over pages of random KV.

Owns: an `AttentionInputs`, whose pool is NaN wherever a kernel must not look.
Does not know: any kernel.

The pool is NaN but for the KV of the contexts: unused pages, the ends of last pages, and layer 0.
Pages are dealt out at random; unused entries of the page table name a page of NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from motet.core.shape import ModelShape
from motet.kernels.types import AttentionBatch
from motet.memory.geometry import smallest_page_size


@dataclass(frozen=True)
class AttentionInputs:
    """A batch and its pool.

    Attributes:
        q: [num_tokens, num_heads, head_dim], a view of a merged qkv.
        pool: [num_layers, num_pages, page_elems].
    """

    q: Tensor
    pool: Tensor
    batch: AttentionBatch


def random_inputs(
    shape: ModelShape,
    query_lens: Sequence[int],
    context_lens: Sequence[int],
    dtype: torch.dtype,
    generator: torch.Generator,
) -> AttentionInputs:
    """A random batch; `shape.num_layers` layers of which the first is NaN."""
    device = generator.device
    page_size = smallest_page_size(shape)
    pages_of = [-(-context_len // page_size) for context_len in context_lens]
    num_pages = sum(pages_of) + 3
    order = torch.randperm(num_pages)
    page_table = order[-1].repeat(len(context_lens), max(pages_of) + 2)
    page_shape = (2, page_size, shape.num_kv_heads, shape.head_dim)
    pool_shape = (shape.num_layers, num_pages, *page_shape)
    pool = torch.full(pool_shape, torch.nan, dtype=dtype, device=device)
    for i, (own, context_len) in enumerate(
        zip(torch.split(order, [*pages_of, 3]), context_lens, strict=False)
    ):
        page_table[i, : len(own)] = own
        kv_shape = (shape.num_layers - 1, len(own), *page_shape)
        kv = torch.randn(kv_shape, generator=generator, device=device)
        kv[:, -1, :, context_len - (len(own) - 1) * page_size :] = torch.nan
        pool[1:, own.to(device)] = kv.to(dtype)
    num_heads = shape.num_heads + 2 * shape.num_kv_heads
    qkv = torch.randn(
        sum(query_lens), num_heads, shape.head_dim, generator=generator, device=device
    )
    qkv *= 3.0  # scores far apart, so that the softmax is not flat
    starts = [0, *accumulate(query_lens)]
    return AttentionInputs(
        q=qkv.to(dtype)[:, : shape.num_heads],
        pool=pool.flatten(2),
        batch=AttentionBatch(
            page_table=page_table.to(device, torch.int32),
            query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
            context_lens=torch.tensor(context_lens, dtype=torch.int32, device=device),
            max_query_len=max(query_lens),
            max_context_len=max(context_lens),
            page_size=page_size,
        ),
    )
