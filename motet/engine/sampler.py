"""Logits to tokens, each row by its own rules.

Owns: bias, penalties, the filters on probabilities, and the draw.
Does not know: sequences and batches; a row is sampled alike whatever stands beside it.

The order is that of transformers' `generate`: bias, penalties, stop tokens that come too early,
what a grammar forbids; then, unless greedy, temperature, top_k, top_p, min_p, each on what the one
before left. A batch pays only for what its rows ask: a greedy one is a single argmax, and only rows
with top_p are sorted.

On a GPU nothing here waits for the device: its tokens are known when somebody needs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from motet.core.sampling import SamplingParams
from motet.engine.token_mask import TokenMask
from motet.engine.transfer import upload

# The nucleus of top_p is nearly always among this many tokens; only where it is not is a whole
# row sorted.
_NUCLEUS_GUESS = 256
_MASK64 = (1 << 64) - 1

UInt64Array = npt.NDArray[np.uint64]


class SamplingRow(NamedTuple):
    """A row of logits that is not simply greedy.

    Attributes:
        logits_row: which row.
        params: its rules.
        position: index of the token that is drawn, prompt and output counted; with the seed it
            fixes the draw.
        prompt_token_ids: for the repetition penalty.
        output_token_ids: for all penalties; without them it may lack tokens in flight.
    """

    logits_row: int
    params: SamplingParams
    position: int
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]

    @property
    def may_not_stop(self) -> bool:
        """Whether the token that is drawn may not be one of the stop tokens."""
        return self.position - len(self.prompt_token_ids) < self.params.min_tokens


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """What was sampled, on the device.

    Attributes:
        token_ids: int64 [num_rows]; always tokens of the vocabulary.
        is_usable: bool [num_rows]. False where a logit is NaN or the largest is infinite: such a
            row has no next token.
    """

    token_ids: Tensor
    is_usable: Tensor


def sample(
    logits: Tensor, rows: Sequence[SamplingRow], mask: TokenMask | None = None
) -> SampledTokens:
    """Choose the next token of each row.

    Args:
        logits: float32 [num_rows, vocab_size]; overwritten where there are bias, penalties, stop
            tokens that come too early, or masks.
        rows: the rules of the rows that have any; all others are greedy, without any of these.
        mask: what rows with a grammar may choose from; None without any.

    Returns:
        A token for each row. Ties of a greedy row go to the lowest id.
    """
    _add_bias(logits, [row for row in rows if row.params.logit_bias])
    for row in rows:
        if row.params.has_penalties:
            _penalise(logits[row.logits_row], row)
    _forbid_stops(logits, [row for row in rows if row.may_not_stop])
    if mask is not None:
        mask.apply(logits)
    largest, likeliest = logits.max(dim=1)  # a NaN anywhere makes the maximum NaN
    is_usable = largest.isfinite()
    drawn = [row for row in rows if not row.params.is_greedy]
    if drawn:
        index = upload([row.logits_row for row in drawn], torch.int64, logits.device)
        # What comes of a row that is not usable may be no token at all: the likeliest stands.
        tokens = _draw(logits.index_select(0, index), drawn)
        is_drawn = is_usable.index_select(0, index)
        tokens = torch.where(is_drawn, tokens, likeliest.index_select(0, index))
        likeliest.index_copy_(0, index, tokens)
    return SampledTokens(likeliest, is_usable)


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each pair, float64, that depends on these two alone.

    Output number `position` of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
    number generators", OOPSLA 2014), whose state begins with the mixed seed, so that neighbouring
    seeds are unrelated. 40 bits: `uniform * total` then stays below `total` in float64.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = _mix64(np.array([seed & _MASK64 for seed in seeds], np.uint64))
    state += golden * (np.array(positions, np.uint64) + np.uint64(1))
    top_bits = _mix64(state) >> np.uint64(24)
    return top_bits * np.float64(2.0**-40)


def _mix64(values: UInt64Array) -> UInt64Array:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _add_bias(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    """Add each row's bias, in place. Ids beyond the vocabulary have nothing to add to."""
    vocab_size = logits.shape[1]
    biases = [
        (row.logits_row, token, bias)
        for row in rows
        for token, bias in row.params.logit_bias
        if 0 <= token < vocab_size
    ]
    if biases:
        places, tokens, values = zip(*biases, strict=True)
        added = upload(values, logits.dtype, logits.device)
        logits.index_put_(_where(places, tokens, logits), added, accumulate=True)


def _forbid_stops(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    """Make each row's stop tokens impossible, in place."""
    vocab_size = logits.shape[1]
    stops = [
        (row.logits_row, token)
        for row in rows
        for token in row.params.stop_token_ids
        if 0 <= token < vocab_size
    ]
    if stops:
        places, tokens = zip(*stops, strict=True)
        logits.index_put_(_where(places, tokens, logits), logits.new_full((), -torch.inf))


def _where(rows: Sequence[int], tokens: Sequence[int], logits: Tensor) -> tuple[Tensor, Tensor]:
    """An index of single logits."""
    return (
        upload(rows, torch.int64, logits.device),
        upload(tokens, torch.int64, logits.device),
    )


def _penalise(logits: Tensor, row: SamplingRow) -> None:
    """Apply the penalties to one row [vocab_size], in place."""
    params = row.params
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.array([*row.prompt_token_ids, *row.output_token_ids], dtype=np.int64))
        ids = upload(seen, torch.int64, logits.device)
        values = logits[ids]
        penalty = params.repetition_penalty
        logits[ids] = torch.where(values > 0, values / penalty, values * penalty)
    if row.output_token_ids and (params.presence_penalty or params.frequency_penalty):
        unique, counts = np.unique(np.array(row.output_token_ids), return_counts=True)
        ids = upload(unique, torch.int64, logits.device)
        frequency = upload(counts, logits.dtype, logits.device)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * frequency


def _draw(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Draw from the filtered distributions of rows that are not greedy, by inverse CDF: [n]."""
    params = [row.params for row in rows]
    temperature = _column([p.temperature for p in params], logits)
    # Less the maximum first: a tiny temperature then gives 0 and -inf, never NaN.
    scaled = (logits - logits.amax(dim=1, keepdim=True)) / temperature
    _keep_top_k(scaled, [p.top_k for p in params])
    probabilities = scaled.softmax(dim=1)
    _keep_top_p(probabilities, [p.top_p for p in params])
    if any(p.min_p > 0 for p in params):
        floor = _column([p.min_p for p in params], logits) * probabilities.amax(1, keepdim=True)
        probabilities.masked_fill_(probabilities < floor, 0)
    cdf = probabilities.cumsum(dim=1, dtype=torch.float64)
    draws = uniforms([p.seed for p in params], [row.position for row in rows])
    target = _column(draws, cdf) * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True).squeeze(1)


def _column(values: np.ndarray | Sequence[float], like: Tensor) -> Tensor:
    """[num_rows, 1] on the device and of the dtype of `like`."""
    return upload(values, like.dtype, like.device).unsqueeze(1)


def _keep_top_k(scaled: Tensor, top_k: Sequence[int | None]) -> None:
    """Set all but the k largest of each row to -inf, in place; ties of the k-th stay."""
    vocab_size = scaled.shape[1]
    limits = {i: k for i, k in enumerate(top_k) if k is not None and k < vocab_size}
    if not limits:
        return
    index = upload(list(limits), torch.int64, scaled.device)
    filtered = scaled.index_select(0, index)
    ranked = filtered.topk(max(limits.values()), dim=1).values
    last = upload([k - 1 for k in limits.values()], torch.int64, scaled.device).unsqueeze(1)
    filtered.masked_fill_(filtered < ranked.gather(1, last), -torch.inf)
    scaled.index_copy_(0, index, filtered)


def _keep_top_p(probabilities: Tensor, top_p: Sequence[float]) -> None:
    """Zero all but each row's nucleus, in place.

    The nucleus is the smallest set of likeliest tokens whose probability reaches top_p
    (Holtzman et al., arXiv 1904.09751); it has at least one token.
    """
    indices = [i for i, p in enumerate(top_p) if p < 1]
    if not indices:
        return
    index = upload(indices, torch.int64, probabilities.device)
    limits = _column([top_p[i] for i in indices], probabilities)
    rows = probabilities.index_select(0, index)
    ranked, tokens = _ranked(rows, limits)
    before = ranked.cumsum(dim=1) - ranked  # what stands before each token; nothing for the first
    ranked.masked_fill_(before >= limits, 0)
    nucleus = torch.zeros_like(rows).scatter_(1, tokens, ranked)
    probabilities.index_copy_(0, index, nucleus)


def _ranked(rows: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest tokens, descending, at least as many as reach the limits; and their ids."""
    if rows.device.type == "cpu":
        num_ranked = min(_NUCLEUS_GUESS, rows.shape[1])
        ranked, tokens = rows.topk(num_ranked, dim=1)
        if bool((ranked.sum(dim=1, keepdim=True) >= limits).all()):
            return ranked, tokens
    # On a GPU a look at the guess would wait for the whole step; there it is sorted in any case.
    ranked, tokens = rows.sort(dim=1, descending=True)
    return ranked, tokens
