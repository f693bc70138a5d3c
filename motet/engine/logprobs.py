"""How likely tokens were, by the model's own logits.

Owns: log probabilities, ranks, the likeliest tokens beside them, and the way of all these to the
host.
Does not know: what is done to logits before a token is sampled (`sampler.py`), nor how they are
rendered (`server/`).

Only rows that ask are looked at, in blocks: what is computed on the way is many times as large as
the logits, and those of a long prompt would not fit at all. A block is reduced at once to a few
numbers for each row. On a GPU nothing here waits for the device.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from motet.core.messages import TokenLogprobs
from motet.engine.batch_arrays import BatchArrays
from motet.engine.sampler import SampledTokens
from motet.engine.transfer import Download, upload
from motet.scheduler.sequence import ScheduledChunk
from motet.scheduler.sequence import Sequence as TokenSequence

# Rows of logits that are reduced together.
BLOCK_ROWS = 32
# What is reported of a token that has no probability at all: JSON has no infinity.
LEAST_LOGPROB = -1e4


class Likelihoods(NamedTuple):
    """What is told of one token for each of some rows of logits, on the device.

    Attributes:
        logprobs: float32 [num_rows], from `LEAST_LOGPROB` to 0; NaN where a logit is NaN or the
            largest is infinite.
        ranks: int64 [num_rows]. 1 + how many tokens are likelier.
        top_ids: int64 [num_rows, num_top]. The likeliest tokens, descending; equals by their ids.
            The first is the one that greedy sampling takes. Which of the equals make the end of
            the list is left open.
        top_logprobs: float32 [num_rows, num_top].
    """

    logprobs: Tensor
    ranks: Tensor
    top_ids: Tensor
    top_logprobs: Tensor


def likelihoods(blocks: Iterable[Tensor], token_ids: Tensor, num_top: int) -> Likelihoods:
    """Reduce logits to what is told of them.

    Args:
        blocks: float32 [`BLOCK_ROWS`, vocab_size] each, the last one perhaps with fewer rows. One
            is taken after the other, so they may be computed as they are needed.
        token_ids: int64 [num_rows]. A token for each row of all blocks, at least one.
        num_top: how many of the likeliest are wanted; the vocabulary at most is given.
    """
    parts = [
        _reduced(logits, ids, num_top)
        for logits, ids in zip(blocks, torch.split(token_ids, BLOCK_ROWS), strict=True)
    ]
    return Likelihoods(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _reduced(logits: Tensor, token_ids: Tensor, num_top: int) -> Likelihoods:
    total = logits.logsumexp(dim=1, keepdim=True)
    total = total.masked_fill(~total.isfinite(), torch.nan)
    own = logits.gather(1, token_ids.unsqueeze(1))
    top_ids = _likeliest(logits, min(num_top, logits.shape[1]))
    return Likelihoods(
        logprobs=_logprobs(own, total).squeeze(1),
        ranks=1 + torch.count_nonzero(logits > own, dim=1),
        top_ids=top_ids,
        top_logprobs=_logprobs(logits.gather(1, top_ids), total),
    )


def _logprobs(logits: Tensor, total: Tensor) -> Tensor:
    return (logits - total).clamp(LEAST_LOGPROB, 0)


def _likeliest(logits: Tensor, num_top: int) -> Tensor:
    """The tokens with the largest logits of each row, descending; equals by their ids.

    topk leaves open which of equals it takes, and in half precision equals are common. The lowest
    id of the largest has to be among them, since it is what greedy sampling takes.
    """
    ids = logits.topk(num_top, dim=1).indices
    if num_top == 0:
        return ids
    first = logits.argmax(dim=1, keepdim=True)
    has_first = (ids == first).any(dim=1, keepdim=True)
    ids[:, -1:] = torch.where(has_first, ids[:, -1:], first)  # where it is not, all are equal
    ids = ids.sort(dim=1).values
    order = logits.gather(1, ids).sort(dim=1, descending=True, stable=True).indices
    return ids.gather(1, order)


class Asked(NamedTuple):
    """What one sequence asks of its rows of logits, which stand one after another.

    Attributes:
        sequence: whose.
        num_rows: how many rows.
        num_top: how many of the likeliest tokens are reported beside each.
    """

    sequence: TokenSequence
    num_rows: int
    num_top: int


class PendingLogprobs:
    """Log probabilities of a step that was launched, which may still be running.

    Args:
        asked: who asked for the rows, in order.
        token_ids: int64 [num_rows], on the device: the tokens that they are of.
        told: what is told of them.
    """

    def __init__(self, asked: Sequence[Asked], token_ids: Tensor, told: Likelihoods) -> None:
        self._asked = asked
        self._columns = [Download(column) for column in (token_ids, *told)]

    def wait(self) -> dict[TokenSequence, list[TokenLogprobs]]:
        """What each sequence asked for, once the step has run; NaN where logits were not finite."""
        rows = zip(*(column.wait().tolist() for column in self._columns), strict=True)
        return {
            sequence: [
                TokenLogprobs(token, logprob, rank, top_ids[:num_top], top_logprobs[:num_top])
                for token, logprob, rank, top_ids, top_logprobs in islice(rows, num_rows)
            ]
            for sequence, num_rows, num_top in self._asked
        }


class OwnLogits:
    """Logits as the model gave them, of the sequences that ask how likely their next token was.

    Args:
        logits: float32 [num_sampling_chunks, vocab_size]. The rows that are needed are copied, so
            that it may be changed.
        index: which rows, at least one.
        chunks: whose they are.
    """

    def __init__(
        self, logits: Tensor, index: Sequence[int], chunks: Sequence[ScheduledChunk]
    ) -> None:
        self._asked = [
            Asked(chunk.sequence, 1, chunk.sequence.sampling.num_logprobs or 0) for chunk in chunks
        ]
        self._index = upload(index, torch.int64, logits.device)
        self._logits = logits.index_select(0, self._index)

    def of_sampled(self, sampled: SampledTokens) -> PendingLogprobs:
        """How likely the tokens were that have been sampled since."""
        token_ids = sampled.token_ids.index_select(0, self._index)
        num_top = max(asked.num_top for asked in self._asked)
        told = likelihoods(torch.split(self._logits, BLOCK_ROWS), token_ids, num_top)
        return PendingLogprobs(self._asked, token_ids, told)


def own_logits(logits: Tensor, chunks: Sequence[ScheduledChunk]) -> OwnLogits | None:
    """What has to be kept of the logits of sampling chunks; None if nobody asks."""
    index = [
        i for i, chunk in enumerate(chunks) if chunk.sequence.sampling.num_logprobs is not None
    ]
    return OwnLogits(logits, index, [chunks[i] for i in index]) if index else None


class PromptRows(NamedTuple):
    """The tokens of a batch whose logits tell how likely tokens of prompts were.

    Attributes:
        asked: who asks, in order; nobody has no rows.
        rows: tokens of the batch, [num_rows].
        token_ids: the token after each in its prompt, [num_rows].
    """

    asked: list[Asked]
    rows: list[int]
    token_ids: list[int]


def prompt_rows(arrays: BatchArrays) -> PromptRows:
    """What a batch has to tell of prompts."""
    found = PromptRows([], [], [])
    for chunk, first_token in zip(arrays.chunks, arrays.query_starts.tolist(), strict=False):
        positions = chunk.reported_positions
        if not positions:
            continue
        seq = chunk.sequence
        found.asked.append(Asked(seq, len(positions), seq.sampling.num_prompt_logprobs or 0))
        found.rows.extend(first_token + position - chunk.start for position in positions)
        found.token_ids.extend(seq.prompt_token_ids[positions.start + 1 : positions.stop + 1])
    return found
