"""Is paged attention right at real shapes?

Owns: the batches that it is checked on, and its float64 reference.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec
import torch
from torch import Tensor

from benchmarks.gpu.attention_batch import AttentionInputs, random_inputs
from benchmarks.gpu.errors import poison_free_memory, roundoff, worst_error
from benchmarks.gpu.parts import Case
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Check
from motet.core.shape import ModelShape
from motet.kernels.types import Kernels

_LAYER = 1
_SCORE_ERROR = 2.0**-16  # of a weight, from scores and exponentials in float32
_TOLERANCE = "u |y| + (u + 2^-16) sum |weight v|"


def attention_cases(
    plan: Plan, kernels: Kernels, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[Case]:
    """Decode and prefill by chunk, with and without a sliding window."""
    check = plan.check
    shape = msgspec.structs.replace(plan.config.shape, num_layers=2)
    batches = {
        "decode": ([1] * len(check.decode_contexts), list(check.decode_contexts)),
        "prefill": (
            [num_new for num_new, _ in check.prefill_chunks],
            [context for _, context in check.prefill_chunks],
        ),
    }
    for name, (query_lens, context_lens) in batches.items():
        for window in (None, check.sliding_window):
            kind = f"{name} with window {window}" if window else name
            title = f"attention, {kind}, {str(dtype).removeprefix('torch.')}"
            make = partial(random_inputs, shape, query_lens, context_lens, dtype, generator)
            yield Case(title, partial(_check, title, kernels, make, shape, window))


def _check(
    title: str,
    kernels: Kernels,
    make: Callable[[], AttentionInputs],
    shape: ModelShape,
    window: int | None,
) -> list[Check]:
    inputs = make()
    scale = shape.head_dim**-0.5
    poison_free_memory(inputs.q.device, inputs.q.numel() * inputs.q.element_size())
    got = kernels.paged_attention(
        inputs.q, inputs.pool, _LAYER, inputs.batch, shape.num_kv_heads, scale, window
    )
    worst = max(_sequence_errors(inputs, got, shape, scale, window))
    return [Check(name=title, worst=worst, tolerance=_TOLERANCE)]


def _sequence_errors(
    inputs: AttentionInputs, got: Tensor, shape: ModelShape, scale: float, window: int | None
) -> Iterator[float]:
    """The worst error of each sequence and KV head."""
    batch = inputs.batch
    starts: Sequence[int] = batch.query_starts.tolist()
    token_shape = (batch.page_size, shape.num_kv_heads, shape.head_dim)
    group = shape.num_heads // shape.num_kv_heads
    u = roundoff(got.dtype)
    for i, context_len in enumerate(batch.context_lens.tolist()):
        pages = batch.page_table[i, : -(-context_len // batch.page_size)].long()
        kv = inputs.pool[_LAYER, pages].view(len(pages), 2, *token_shape).transpose(0, 1)
        k, v = kv.flatten(1, 2)[:, :context_len].double()
        rows = slice(starts[i], starts[i + 1])
        visible = _visible(starts[i + 1] - starts[i], context_len, window, got.device)
        for head in range(shape.num_kv_heads):
            heads = slice(head * group, (head + 1) * group)
            q = inputs.q[rows, heads].double().transpose(0, 1)
            scores = scale * (q @ k[:, head].T)
            weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
            want = weights @ v[:, head]
            tolerance = u * want.abs() + (u + _SCORE_ERROR) * (weights @ v[:, head].abs())
            yield worst_error(got[rows, heads].transpose(0, 1), want, tolerance)


def _visible(num_new: int, context_len: int, window: int | None, device: torch.device) -> Tensor:
    """[new tokens, context]: what each of the last tokens sees."""
    keys = torch.arange(context_len, device=device)
    queries = keys[context_len - num_new :, None]
    visible = keys <= queries
    if window is not None:
        visible &= keys > queries - window
    return visible
