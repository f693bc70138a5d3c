"""Which adapters are popular: Zipf's law, none more than another, and Punica's four mixes.

Owns: how often each adapter is asked for, and workloads of it with any arrivals.
Does not know: S-LoRA's popularity, which is part of its generator (`trace.py`).

Punica's mixes (Chen et al., "Punica: Multi-Tenant LoRA Serving", MLSys 2024; `get_lora_lens` of its
benchmarks) say how many of n requests each adapter gets, exactly: one each (distinct), n over
sqrt(n) adapters (uniform), all to one (identical), and skewed, which the paper calls Zipf-1.5 and
which is a geometric series: each adapter gets 1.5 times as many as the next less popular one.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from motet.bench.kind import Drawn
from motet.bench.load import (
    Adapters,
    Exponent,
    Load,
    NumAdapters,
    RankCycle,
    draw_arrivals,
    draw_lengths,
)
from motet.bench.workload import WorkRequest

PUNICA_RATIO = 1.5

PunicaMix = Literal["distinct", "uniform", "skewed", "identical"]


class UniformSpec(Load, frozen=True, kw_only=True):
    """Parameters of adapters that are all as popular."""

    num_adapters: NumAdapters = 100
    rank_cycle: RankCycle = (16,)


class ZipfSpec(UniformSpec, frozen=True, kw_only=True):
    """Parameters of Zipf's law."""

    exponent: Exponent = 1.0


class PunicaSpec(Load, frozen=True, kw_only=True):
    """Parameters of a mix of Punica's. It follows from the requests how many adapters there are."""

    mix: Annotated[PunicaMix, Meta(description="how requests are spread over adapters")] = "uniform"
    rank_cycle: RankCycle = (16,)


def draw_uniform_workload(spec: UniformSpec, seed: int) -> Drawn:
    """Every adapter is asked for as often, by and large."""
    rng = np.random.RandomState(seed)
    indices = rng.randint(spec.num_adapters, size=spec.num_requests).tolist()
    return _drawn(rng, spec, Adapters("adapter", spec.rank_cycle), indices)


def draw_zipf_workload(spec: ZipfSpec, seed: int) -> Drawn:
    """A few adapters are asked for often, and many seldom."""
    rng = np.random.RandomState(seed)
    indices = draw_zipf(rng, spec.num_adapters, spec.exponent, spec.num_requests).tolist()
    return _drawn(rng, spec, Adapters("adapter", spec.rank_cycle), indices)


def draw_punica_workload(spec: PunicaSpec, seed: int) -> Drawn:
    """Requests over adapters exactly as Punica spreads them, in random order."""
    rng = np.random.RandomState(seed)
    counts = punica_counts(spec.mix, spec.num_requests)
    indices = np.repeat(np.arange(len(counts)), counts)
    rng.shuffle(indices)
    return _drawn(rng, spec, Adapters("adapter", spec.rank_cycle), indices.tolist())


def zipf_shares(num_adapters: int, exponent: float) -> NDArray[np.float64]:
    """The share of each adapter, the most popular first; float64 [num_adapters], sum 1."""
    weights = np.arange(1.0, num_adapters + 1) ** -exponent
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def draw_zipf(
    rng: np.random.RandomState, num_adapters: int, exponent: float, count: int
) -> NDArray[Any]:
    """Adapters by Zipf's law; int64 [count], number 0 the most popular."""
    bounds = np.cumsum(zipf_shares(num_adapters, exponent))[:-1]
    return np.searchsorted(bounds, rng.random_sample(count), side="right")


def punica_counts(mix: PunicaMix, num_requests: int) -> list[int]:
    """How many of the requests each adapter gets, the most popular first."""
    if mix == "distinct":
        return [1] * num_requests
    if mix == "identical":
        return [num_requests]
    if mix == "uniform":
        num_adapters = math.ceil(math.sqrt(num_requests))
        share, rest = divmod(num_requests, num_adapters)
        return [share + (index < rest) for index in range(num_adapters)]
    return _skewed_counts(num_requests)


def _skewed_counts(num_requests: int) -> list[int]:
    """A geometric series from 1 on, rounded down, and what is left over for one adapter more."""
    counts: list[int] = []
    left, term = num_requests, 1.0
    while int(term) < left:
        counts.append(int(term))
        left -= int(term)
        term *= PUNICA_RATIO
    return sorted([*counts, left], reverse=True)


def _drawn(
    rng: np.random.RandomState, spec: Load, adapters: Adapters, indices: Sequence[int]
) -> Drawn:
    """Requests for these adapters in turn, with arrivals and lengths as the spec says."""
    count = len(indices)
    columns = zip(
        indices,
        draw_arrivals(rng, count, spec.rate_per_s, spec.cv),
        draw_lengths(rng, spec.scaled(spec.prompt_tokens), count),
        draw_lengths(rng, spec.scaled(spec.output_tokens), count),
        strict=True,
    )
    requests = [
        WorkRequest(
            index=index,
            arrival_s=arrival_s,
            adapter=adapters.name(adapter),
            num_prompt_tokens=num_prompt_tokens,
            num_output_tokens=num_output_tokens,
            stream=index,
        )
        for index, (adapter, arrival_s, num_prompt_tokens, num_output_tokens) in enumerate(columns)
    ]
    return Drawn(requests=requests, ranks=adapters.ranks(indices))
