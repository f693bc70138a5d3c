"""One step on the device: a batch of chunks becomes tensors, logits, and tokens.

Owns: the index tensors that the kernels read, and the tokens that stay on the device.
Does not know: why these sequences were chosen, nor what becomes of their tokens.
"""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from motet.engine.batch_arrays import BatchArrays, batch_arrays
from motet.engine.decode_graphs import DecodeGraphs
from motet.engine.last_tokens import LastTokens
from motet.engine.logprobs import (
    BLOCK_ROWS,
    PendingLogprobs,
    likelihoods,
    own_logits,
    prompt_rows,
)
from motet.engine.lora_batch import lora_batch, max_fixed_rank
from motet.engine.routed_batch import PendingRouting, pending_routing
from motet.engine.sampler import SampledTokens, SamplingRow, sample
from motet.engine.token_mask import token_mask
from motet.engine.transfer import Download, Values, upload
from motet.kernels.types import AttentionBatch, Kernels, LoraPairs
from motet.memory.device_pool import DevicePool
from motet.models.context import ForwardContext, LoraContext
from motet.models.decoder import Decoder, HiddenStates
from motet.scheduler.page_table import PageTable
from motet.scheduler.sequence import (
    NO_LOGPROBS,
    NO_ROUTING,
    Batch,
    BatchLogprobs,
    Routing,
    ScheduledChunk,
)


class PendingTokens:
    """The tokens of a step that was launched, which may still be running.

    Args:
        sampled: what was sampled, as computed.
        given_order: see `BatchArrays`.
        of_tokens, of_prompts: what was asked of log probabilities; None, if nothing.
        of_routers: what was asked of routing.
    """

    def __init__(
        self,
        sampled: SampledTokens,
        given_order: np.ndarray,
        of_tokens: PendingLogprobs | None,
        of_prompts: PendingLogprobs | None,
        of_routers: Sequence[PendingRouting],
    ) -> None:
        self._token_ids = Download(sampled.token_ids)
        self._is_usable = Download(sampled.is_usable)
        self._given_order = given_order
        self._of_tokens = of_tokens
        self._of_prompts = of_prompts
        self._of_routers = of_routers

    def wait(self) -> list[int | None]:
        """A token for each sampling chunk, in the batch's order; None: its logits were not finite.

        Returns once the step has run.
        """
        token_ids = self._token_ids.wait()[self._given_order].tolist()
        is_usable = self._is_usable.wait()[self._given_order].tolist()
        return [
            token if usable else None for token, usable in zip(token_ids, is_usable, strict=True)
        ]

    def logprobs(self) -> BatchLogprobs:
        """The log probabilities that were asked for. Returns once the step has run."""
        if self._of_tokens is None and self._of_prompts is None:
            return NO_LOGPROBS
        tokens = self._of_tokens.wait() if self._of_tokens is not None else {}
        prompts = self._of_prompts.wait() if self._of_prompts is not None else {}
        not_finite = {
            sequence
            for sequence, told in (*tokens.items(), *prompts.items())
            if any(math.isnan(each.logprob) for each in told)
        }
        return BatchLogprobs(tokens, prompts, not_finite)

    def routing(self) -> Routing:
        """The routing that was asked for. Returns once the step has run."""
        if not self._of_routers:
            return NO_ROUTING
        return dict(chain.from_iterable(each.wait().items() for each in self._of_routers))


class ModelRunner:
    """Runs the decoder over batches.

    Args:
        decoder: the model.
        pool: KV and adapter weights.
        kernels: the device's kernels.
        page_table: the pages of the running sequences, as the scheduler keeps them.
        graphs: runs batches of decodes; None has them run like all others.
    """

    def __init__(
        self,
        decoder: Decoder,
        pool: DevicePool,
        kernels: Kernels,
        page_table: PageTable,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self._decoder = decoder
        self._pool = pool
        self._kernels = kernels
        self._page_table = page_table
        self._graphs = graphs
        self._device = pool.data.device
        self._last_tokens = LastTokens(page_table.num_rows, self._device)

    @property
    def overlaps(self) -> bool:
        """Whether a step may be launched before the tokens of the one before are known.

        On a CPU the step's threads have the cores, and there is nothing to do beside it.
        """
        return self._device.type != "cpu"

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run one token, so that its kernels are compiled before a request waits for them.

        On a CPU that is all of them. A GPU compiles those of a prefill when one first needs them:
        they come in too many forms to have all of them at every start. It needs an empty pool: it
        writes to page 0.
        """
        zero = self._upload([0], torch.int64)
        bounds = self._upload([0, 1], torch.int32)
        attention = AttentionBatch(
            page_table=self._upload([0], torch.int32).view(1, 1),
            query_starts=bounds,
            context_lens=self._upload([1], torch.int32),
            max_query_len=1,
            max_context_len=1,
            page_size=self._pool.geometry.page_size,
        )
        pairs = LoraPairs(
            tokens=self._upload([0], torch.int32),
            slots=self._upload([self._pool.empty_slot], torch.int32),
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
        if self._graphs is not None:
            self._graphs.warm_up()

    @torch.inference_mode()
    def launch(self, batch: Batch) -> PendingTokens:
        """Compute the chunks, and sample a token for each that one follows from.

        Batches are computed in the order in which they are launched. A chunk that awaits a token
        gets it from the batch before, on the device.
        """
        arrays = batch_arrays(
            batch.chunks, self._page_table, self._pool.geometry.page_size, self._pool.empty_slot
        )
        logits, of_prompts, of_routers = self._compute(arrays)
        chunks = [chunk for chunk in arrays.chunks if chunk.samples]
        own = own_logits(logits, chunks)
        # From here on the logits are no longer the model's own: masks and penalties change them.
        # On a GPU, masks are computed while the logits are.
        mask = token_mask(chunks, self._device)
        sampled = sample(logits, _sampling_rows(chunks), mask)
        if self.overlaps:
            self._last_tokens.keep(arrays, sampled.token_ids)
        of_tokens = None if own is None else own.of_sampled(sampled)
        return PendingTokens(sampled, arrays.given_order, of_tokens, of_prompts, of_routers)

    def _compute(
        self, arrays: BatchArrays
    ) -> tuple[Tensor, PendingLogprobs | None, list[PendingRouting]]:
        """Logits, float32 [num_sampling_chunks, vocab_size], and what is asked besides."""
        max_rank = max_fixed_rank(arrays, self._pool)
        if self._graphs is not None and arrays.is_decode and arrays.is_plain:
            return self._graphs.run(arrays, max_rank, self._last_tokens), None, []
        token_ids = self._upload(arrays.token_ids, torch.int64)
        self._last_tokens.fill_in(arrays, token_ids)
        lora = lora_batch(arrays, self._pool, max_rank)
        hidden = self._decoder.hidden_states(token_ids, self._context(arrays, lora.context))
        logits_rows = self._upload(arrays.logits_rows, torch.int64)
        logits = self._decoder.logits(hidden, logits_rows, self._kernels)
        of_prompts = None if arrays.is_decode else self._prompt_logprobs(arrays, hidden)
        asked = [pending_routing(arrays, routed) for routed in lora.routed]
        return logits, of_prompts, [each for each in asked if each is not None]

    def _prompt_logprobs(self, arrays: BatchArrays, hidden: HiddenStates) -> PendingLogprobs | None:
        """What is asked of prompts; None, if nothing."""
        asked, rows, token_ids = prompt_rows(arrays)
        if not asked:
            return None
        blocks = (
            self._decoder.logits(hidden, block, self._kernels)
            for block in torch.split(self._upload(rows, torch.int64), BLOCK_ROWS)
        )
        targets = self._upload(token_ids, torch.int64)
        told = likelihoods(blocks, targets, max(each.num_top for each in asked))
        return PendingLogprobs(asked, targets, told)

    def _context(self, arrays: BatchArrays, lora: LoraContext | None) -> ForwardContext:
        num_new = np.diff(arrays.query_starts)
        attention = AttentionBatch(
            page_table=self._upload(arrays.page_table, torch.int32),
            query_starts=self._upload(arrays.query_starts, torch.int32),
            context_lens=self._upload(arrays.context_lens, torch.int32),
            max_query_len=int(num_new.max()),
            max_context_len=int(arrays.context_lens.max()),
            page_size=self._pool.geometry.page_size,
        )
        return ForwardContext(
            pool=self._pool.data,
            kernels=self._kernels,
            attention=attention,
            positions=self._upload(arrays.positions, torch.int64),
            kv_slots=self._upload(arrays.kv_slots, torch.int64),
            lora=lora,
        )

    def _upload(self, values: Values, dtype: torch.dtype) -> Tensor:
        return upload(values, dtype, self._device)


def _sampling_rows(chunks: Sequence[ScheduledChunk]) -> list[SamplingRow]:
    """The rows of those that are not simply greedy; a row of logits for each chunk."""
    rows = []
    for index, chunk in enumerate(chunks):
        sequence = chunk.sequence
        if not sequence.is_plainly_greedy:
            rows.append(
                SamplingRow(
                    index,
                    sequence.sampling,
                    chunk.end,
                    sequence.prompt_token_ids,
                    sequence.output_token_ids,
                )
            )
    return rows
