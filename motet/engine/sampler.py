"""Logits to tokens, each row by its own rules.

Owns: penalties, the filters on probabilities, and the draw.
Does not know: sequences and batches; a row is sampled alike whatever stands beside it.

The order is that of transformers' `generate`: penalties; then, unless greedy, temperature, top_k,
top_p, min_p, each on what the one before left. A batch pays only for what its rows ask: a greedy
one is a single argmax, and only rows with top_p are sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motet.core.sampling import SamplingParams

# The nucleus of top_p is nearly always among this many tokens; only where it is not is a whole
# row sorted.
_NUCLEUS_GUESS = 256


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What is known of one row of logits.

    Attributes:
        params: its rules.
        position: index of the token that is drawn, prompt and output counted; with the seed it
            fixes the draw.
        prompt_token_ids: for the repetition penalty.
        output_token_ids: for all penalties.
    """

    params: SamplingParams
    position: int
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]


def sample(logits: Tensor, rows: Sequence[SamplingRow]) -> list[int | None]:
    """Choose the next token of each row.

    Args:
        logits: float32 [num_rows, vocab_size]; overwritten where there are penalties.
        rows: their rules.

    Returns:
        A token id for each row; None where a logit is NaN or the largest is infinite. Ties of a
        greedy row go to the lowest id.
    """
    if not rows:
        return []
    for index, row in enumerate(rows):
        if row.params.has_penalties:
            _penalise(logits[index], row)
    largest, tokens = logits.max(dim=1)  # a NaN anywhere makes the maximum NaN
    is_usable = largest.isfinite().tolist()
    chosen = tokens.tolist()
    drawn = [i for i, row in enumerate(rows) if is_usable[i] and not row.params.is_greedy]
    if drawn:
        for index, token in zip(drawn, _draw(logits[drawn], [rows[i] for i in drawn]), strict=True):
            chosen[index] = token
    return [token if usable else None for token, usable in zip(chosen, is_usable, strict=True)]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on these two alone.

    Output number `position` of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
    number generators", OOPSLA 2014), whose state begins with the mixed seed, so that neighbouring
    seeds are unrelated. 40 bits: `uniform * total` then stays below `total` in float64.
    """
    golden = 0x9E3779B97F4A7C15
    return (_mix64(_mix64(seed) + golden * (position + 1)) >> 24) * 2.0**-40


def _mix64(value: int) -> int:
    mask = (1 << 64) - 1
    value &= mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def _penalise(logits: Tensor, row: SamplingRow) -> None:
    """Apply the penalties to one row [vocab_size], in place."""
    params = row.params
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.array([*row.prompt_token_ids, *row.output_token_ids], dtype=np.int64))
        ids = torch.from_numpy(seen).to(logits.device)
        values = logits[ids]
        penalty = params.repetition_penalty
        logits[ids] = torch.where(values > 0, values / penalty, values * penalty)
    if row.output_token_ids and (params.presence_penalty or params.frequency_penalty):
        unique, counts = np.unique(np.array(row.output_token_ids), return_counts=True)
        ids = torch.from_numpy(unique).to(logits.device)
        frequency = torch.from_numpy(counts).to(logits.device, logits.dtype)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * frequency


def _draw(logits: Tensor, rows: Sequence[SamplingRow]) -> list[int]:
    """Draw from the filtered distributions of rows that are not greedy, by inverse CDF."""
    params = [row.params for row in rows]
    temperature = _column([p.temperature for p in params], logits)
    # Less the maximum first: a tiny temperature then gives 0 and -inf, never NaN.
    scaled = (logits - logits.amax(dim=1, keepdim=True)) / temperature
    _keep_top_k(scaled, [p.top_k for p in params])
    probabilities = scaled.softmax(dim=1)
    _keep_top_p(probabilities, [p.top_p for p in params])
    if any(p.min_p > 0 for p in params):
        floor = _column([p.min_p for p in params], logits) * probabilities.amax(1, keepdim=True)
        probabilities[probabilities < floor] = 0
    cdf = probabilities.cumsum(dim=1, dtype=torch.float64)
    uniforms = [uniform(row.params.seed, row.position) for row in rows]
    target = _column(uniforms, cdf) * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True).squeeze(1).tolist()


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """[num_rows, 1] on the device and of the dtype of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)


def _keep_top_k(scaled: Tensor, top_k: Sequence[int | None]) -> None:
    """Set all but the k largest of each row to -inf, in place; ties of the k-th stay."""
    vocab_size = scaled.shape[1]
    limits = {i: k for i, k in enumerate(top_k) if k is not None and k < vocab_size}
    if not limits:
        return
    indices = list(limits)
    ranked = scaled[indices].topk(max(limits.values()), dim=1).values
    kth = torch.tensor([k - 1 for k in limits.values()], device=scaled.device).unsqueeze(1)
    filtered = scaled[indices]
    filtered[filtered < ranked.gather(1, kth)] = -torch.inf
    scaled[indices] = filtered


def _keep_top_p(probabilities: Tensor, top_p: Sequence[float]) -> None:
    """Zero all but each row's nucleus, in place.

    The nucleus is the smallest set of likeliest tokens whose probability reaches top_p
    (Holtzman et al., arXiv 1904.09751); it has at least one token.
    """
    indices = [i for i, p in enumerate(top_p) if p < 1]
    if not indices:
        return
    limits = _column([top_p[i] for i in indices], probabilities)
    rows = probabilities[indices]
    num_ranked = min(_NUCLEUS_GUESS, rows.shape[1])
    ranked, tokens = rows.topk(num_ranked, dim=1)
    if bool((ranked.sum(dim=1, keepdim=True) < limits).any()):
        ranked, tokens = rows.sort(dim=1, descending=True)
    before = ranked.cumsum(dim=1) - ranked  # what stands before each token; nothing for the first
    ranked[before >= limits] = 0
    probabilities[indices] = torch.zeros_like(rows).scatter_(1, tokens, ranked)
