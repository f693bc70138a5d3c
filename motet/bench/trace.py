"""The generator of S-LoRA's evaluation: who asks, when, and for how much.

Owns: the algorithm of its `benchmarks/trace.py`, so that equal parameters give its very numbers.
Does not know: adapters' names and ranks, prompts, nor S-LoRA's suites (`slora.py`).

One thing to know before parameters are chosen: popularity follows a power law with the cumulative
distribution q ** alpha, so alpha = 1, the default there, is *uniform*, and a smaller one is more
skewed.
"""

from dataclasses import dataclass

import numpy as np

from motet.bench.load import draw_gaps
from motet.bench.popularity import draw_zipf


@dataclass(frozen=True, kw_only=True)
class TraceSpec:
    """Parameters of a trace, under S-LoRA's defaults where it has any.

    Attributes:
        alpha: skew of the popularity; 1 is uniform.
        rate_per_s: requests per second, on average.
        duration_s: with the rate it gives the number of requests; the last may come later.
        cv: coefficient of variation of the gaps between arrivals; 0 is an even pace, 1 a Poisson
            process.
        prompt_tokens: from the first to just below the second, evenly.
        output_tokens: as `prompt_tokens`.
        is_zipf: whether alpha is the exponent of Zipf's law instead: of the adapters by
            popularity, the i-th is asked for in proportion to 1 / i ** alpha.
    """

    num_adapters: int
    rate_per_s: float
    duration_s: float
    prompt_tokens: tuple[int, int] = (8, 512)
    output_tokens: tuple[int, int] = (8, 512)
    alpha: float = 1.0
    cv: float = 1.0
    seed: int = 42
    is_zipf: bool = False

    @property
    def num_requests(self) -> int:
        return int(self.rate_per_s * self.duration_s)


@dataclass(frozen=True, kw_only=True)
class TraceRequest:
    """One request of a trace; `arrival_s` counts from the trace's start."""

    adapter_index: int
    num_prompt_tokens: int
    num_output_tokens: int
    arrival_s: float


def draw_trace(spec: TraceSpec) -> list[TraceRequest]:
    """The requests in the order of their arrival.

    Two specs that differ in `num_adapters` alone give the same trace but for the adapters.
    """
    # The same stream of numbers as numpy's global generator after np.random.seed(seed).
    rng = np.random.RandomState(spec.seed)
    count = spec.num_requests
    if spec.is_zipf:
        adapters = draw_zipf(rng, spec.num_adapters, spec.alpha, count)
    else:
        adapters = (rng.power(spec.alpha, count) * spec.num_adapters).astype(int)
    prompt_lengths = rng.randint(*spec.prompt_tokens, count)
    output_lengths = rng.randint(*spec.output_tokens, count)
    gaps_s = draw_gaps(rng, count, spec.rate_per_s, spec.cv)
    return [
        TraceRequest(
            adapter_index=int(adapter),
            num_prompt_tokens=int(num_prompt_tokens),
            num_output_tokens=int(num_output_tokens),
            arrival_s=float(arrival_s),
        )
        for adapter, num_prompt_tokens, num_output_tokens, arrival_s in zip(
            adapters, prompt_lengths, output_lengths, np.cumsum(gaps_s), strict=True
        )
    ]
