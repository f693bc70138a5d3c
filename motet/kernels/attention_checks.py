"""What every implementation of paged attention asks of its arguments.

Owns: the assertions. Does not know: devices.
"""

from torch import Tensor

from motet.kernels.types import AttentionBatch


def check_paged_attention(
    q: Tensor, pool: Tensor, batch: AttentionBatch, num_kv_heads: int, sliding_window: int | None
) -> None:
    """Raises: AssertionError, saying what does not fit."""
    num_heads, head_dim = q.shape[1:]
    assert q.dtype == pool.dtype, f"q is {q.dtype}, the pool {pool.dtype}; convert q"
    assert num_heads % num_kv_heads == 0, (
        f"{num_heads} heads cannot share {num_kv_heads} KV heads; expected a multiple"
    )
    assert head_dim % 16 == 0, f"head_dim is {head_dim}; expected a multiple of 16"
    assert sliding_window is None or sliding_window > 0, (
        f"sliding_window is {sliding_window}; expected a positive number, or None for no window"
    )
    assert len(batch.query_starts) == batch.num_seqs + 1, (
        f"{len(batch.query_starts)} query_starts for {batch.num_seqs} sequences; expected one more"
    )
    check_pool(pool, batch.page_size, num_kv_heads, head_dim)


def check_pool(pool: Tensor, page_size: int, num_kv_heads: int, head_dim: int) -> None:
    """Raises: AssertionError, saying what does not fit."""
    page_elems = 2 * page_size * num_kv_heads * head_dim
    assert pool.shape[2] == page_elems, (
        f"a page has {pool.shape[2]} elements; expected {page_elems}, K and V of {page_size} tokens"
        f" with {num_kv_heads} KV heads of {head_dim}"
    )
    assert pool.is_contiguous(), "the pool is a view with gaps; pass the whole, contiguous one"
