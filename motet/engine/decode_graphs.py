"""Decode steps that are replayed from captured graphs, not launched kernel by kernel.

Owns: which graphs there are, and which of them a batch takes.
Does not know: how a graph is captured (`cuda_graphs.py`), nor batches with prefill, compositions or
routed sets in them, which are launched kernel by kernel.

A launch costs the host some microseconds, and a decode step has hundreds of them; a graph is one.
It is bound to shapes and addresses, so there is one for each of a ladder of batch sizes, and a
batch takes the next larger one. A batch without adapters has graphs without LoRA kernels. With
adapters there is a class for each of a ladder of ranks, by the largest in the batch: it only sizes
grids, as the kernels read true ranks from the tables, which a load changes under the graph.

Graphs without adapters and those of the lowest class are captured at the start: nearly all traffic
needs them, and what they need compiled a request would wait for. The others are captured when a
batch first needs them, since most servers never do: a stall once for each size and class, against
as long for each at every start. All graphs share one pool of memory, which is as large as the
largest of them needs, as no two of them run at the same time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from motet.engine.batch_arrays import BatchArrays
from motet.engine.decode_inputs import DecodeInputs
from motet.engine.last_tokens import LastTokens
from motet.kernels.types import Kernels
from motet.memory.device_pool import DevicePool
from motet.models.context import ForwardContext, LoraContext
from motet.models.decoder import Decoder

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Runs some work on the device, and gives what runs it again, on the same tensors."""

_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_LOWEST_RANK = 16
_RANK_STEP = 4  # a class takes ranks up to this many times those of the one before


def ladder(max_running: int) -> list[int]:
    """The batch sizes that are captured, ascending; the last one takes every batch."""
    sizes = [size for size in _SIZES if size < max_running]
    while sizes and 2 * sizes[-1] < max_running:  # beyond the list
        sizes.append(2 * sizes[-1])
    return [*sizes, max_running]


def rank_class(max_rank: int) -> int:
    """The rank that the graphs of a batch with this largest rank are captured with.

    0 is without adapters.
    """
    if max_rank == 0:
        return 0
    rank = _LOWEST_RANK
    while rank < max_rank:
        rank *= _RANK_STEP
    return rank


class DecodeGraphs:
    """Runs batches in which each chunk is one token, of the base model or of one adapter.

    Args:
        decoder, pool, kernels: the model, its memory, its kernels.
        capture: captures work on the device.
        max_running: sequences in a batch at most.
        max_model_len: longest sequence [tokens].
    """

    def __init__(
        self,
        decoder: Decoder,
        pool: DevicePool,
        kernels: Kernels,
        capture: Capture,
        *,
        max_running: int,
        max_model_len: int,
    ) -> None:
        device = pool.data.device
        self._decoder = decoder
        self._pool = pool
        self._kernels = kernels
        self._capture = capture
        self._sizes = ladder(max_running)
        max_pages = pool.geometry.num_kv_pages(max_model_len)
        self._inputs = DecodeInputs(max_running, max_pages, pool.empty_slot, device)
        # Graphs that share memory would overwrite each other's logits, so they are copied here.
        self._logits = torch.empty(max_running, decoder.config.shape.vocab_size, device=device)
        self._replays: dict[tuple[int, int], Callable[[], None]] = {}

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture what nearly every server needs: see above. The inputs are still padding."""
        for size in reversed(self._sizes):  # the largest first: the others fit in its memory
            for rank in (0, _LOWEST_RANK):
                self._replay(size, rank)

    @torch.inference_mode()
    def run(self, arrays: BatchArrays, max_rank: int, last_tokens: LastTokens) -> Tensor:
        """Compute a batch of decodes.

        Args:
            arrays: the batch.
            max_rank: the largest rank of its adapters; 0 without any.
            last_tokens: has the tokens that it awaits.

        Returns:
            float32 [num_chunks, vocab_size], overwritten by the next call.
        """
        assert arrays.is_decode, "a graph takes batches of one token each"
        size = next(size for size in self._sizes if size >= arrays.num_chunks)
        self._inputs.fill(arrays, size)
        last_tokens.fill_in(arrays, self._inputs.token_ids(size))
        self._replay(size, rank_class(max_rank))()
        return self._logits[: arrays.num_chunks]

    def _replay(self, size: int, rank: int) -> Callable[[], None]:
        """What runs the graph, which is captured if there is none yet."""
        replay = self._replays.get((size, rank))
        if replay is None:
            replay = self._replays[size, rank] = self._capture(self._work(size, rank))
        return replay

    def _work(self, size: int, rank: int) -> Callable[[], None]:
        """A step over the inputs, whatever they are when it runs. To run it twice does no harm."""
        inputs = self._inputs
        lora = None
        if rank > 0:
            lora = LoraContext(tables=self._pool.tables, pairs=inputs.pairs(size, rank))
        context = ForwardContext(
            pool=self._pool.data,
            kernels=self._kernels,
            attention=inputs.attention(size, self._pool.geometry.page_size),
            positions=inputs.positions(size),
            kv_slots=inputs.kv_slots(size),
            lora=lora,
        )
        token_ids, logits_rows = inputs.token_ids(size), inputs.logits_rows(size)
        logits = self._logits[:size]

        def work() -> None:
            logits.copy_(self._decoder.forward(token_ids, logits_rows, context))

        return work
