"""What most kinds of workload have in common: arrivals, lengths, and adapters numbered on.

Owns: the parameters of these, how they are drawn, and the order of requests.
Does not know: which adapter a request is for.

All numbers come from `numpy.random.RandomState`: its streams are frozen, those of numpy's newer
generators are not. Times are rounded to microseconds, so that a last bit that two machines do not
agree on does not make two workloads of one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from motet.bench.kind import Spec
from motet.bench.workload import LONGEST, WorkRequest

# A workload is held in memory as a whole, and written as a file.
MAX_REQUESTS = 5_000_000

# Below it, gaps are as good as even, and 1 / cv**2 is soon more than a float can be.
_SMALLEST_CV = 1e-9

NumTokens = Annotated[int, Meta(ge=1, le=LONGEST)]
Lengths = tuple[NumTokens, NumTokens]
Rank = Annotated[int, Meta(ge=1, le=4096)]

DurationS = Annotated[
    float,
    Meta(gt=0, le=1e7, description="with the rate it gives how many; the last may come later"),
]
Cv = Annotated[
    float,
    Meta(
        ge=0,
        le=100,
        description="variation of the gaps between arrivals: 0 is an even pace, 1 is a Poisson "
        "process, more is bursts (gamma)",
    ),
]
PromptTokens = Annotated[
    Lengths, Meta(description="of a prompt: from the first to just below the second, evenly")
]
OutputTokens = Annotated[
    Lengths, Meta(description="of an answer: from the first to just below the second, evenly")
]

# Parameters of adapters that are numbered on.
NumAdapters = Annotated[int, Meta(ge=1, le=10_000_000, description="how many adapters there are")]
RankCycle = Annotated[
    tuple[Rank, ...],
    Meta(min_length=1, description="their ranks: adapter i has the i-th, round and round"),
]
Exponent = Annotated[
    float,
    Meta(
        ge=0,
        le=10,
        description="of Zipf's law: adapter i, from 1 on, is asked for in proportion to "
        "1 / i ** exponent; 0 is evenly",
    ),
]


class Arrivals(Spec, frozen=True, kw_only=True):
    """When requests come. Raises ValueError for none of them, or too many."""

    rate_per_s: Annotated[
        float, Meta(gt=0, le=1e6, description="requests a second, on average")
    ] = 2.0
    duration_s: DurationS = 300.0
    cv: Cv = 1.0

    def __post_init__(self) -> None:
        check_count(self.num_requests)

    @property
    def num_requests(self) -> int:
        return int(self.rate_per_s * self.duration_s)


class Load(Arrivals, frozen=True, kw_only=True):
    """When requests come, and how long they are."""

    prompt_tokens: PromptTokens = (8, 512)
    output_tokens: OutputTokens = (8, 512)
    length_scale: Annotated[
        float, Meta(gt=0, le=100, description="multiplies all lengths, for a small machine")
    ] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("prompt_tokens", self.prompt_tokens)
        check_range("output_tokens", self.output_tokens)

    def scaled(self, lengths: Lengths) -> Lengths:
        """Times `length_scale`, as `scale_lengths` does it."""
        return scale_lengths(lengths, self.length_scale)


@dataclass(frozen=True)
class Adapters:
    """Adapters that are numbered on: number i is called `prefix`-i; their ranks go round."""

    prefix: str
    rank_cycle: tuple[int, ...]

    def name(self, index: int) -> str:
        return f"{self.prefix}-{index}"

    def ranks(self, indices: Iterable[int]) -> dict[str, int]:
        """The rank of each of these, by name; once for each."""
        cycle = self.rank_cycle
        return {self.name(i): cycle[i % len(cycle)] for i in dict.fromkeys(indices)}


def check_count(count: int) -> None:
    """Raise ValueError unless a workload of so many requests can be made."""
    if not 1 <= count <= MAX_REQUESTS:
        raise ValueError(
            f"The rate and the duration make {count:,} requests: "
            f"expected 1 to {MAX_REQUESTS:,} of them."
        )


def check_range(name: str, lengths: tuple[int, int]) -> None:
    """Raise ValueError unless there is a number from the first to just below the second."""
    if lengths[0] >= lengths[1]:
        raise ValueError(
            f"{name} is {lengths[0]},{lengths[1]}: expected the second above the first, which is "
            "the shortest; the second is just not drawn any more."
        )


def scale_lengths(lengths: Lengths, scale: float) -> Lengths:
    """A range of lengths times a number; at least one token is left to draw.

    Raises:
        ValueError: they become longer than anything may be.
    """
    first = max(1, int(lengths[0] * scale))
    last = max(first + 1, int(lengths[1] * scale))
    if last > LONGEST:
        raise ValueError(
            f"Lengths of {lengths[0]},{lengths[1]} times {scale:g} are up to {last:,} tokens: "
            f"expected at most {LONGEST:,}."
        )
    return first, last


def draw_arrivals(
    rng: np.random.RandomState, count: int, rate_per_s: float, cv: float
) -> list[float]:
    """When `count` requests come, in s, to microseconds; gaps as `draw_gaps` has them."""
    return round_times(np.cumsum(draw_gaps(rng, count, rate_per_s, cv)))


def draw_gaps(
    rng: np.random.RandomState, count: int, rate_per_s: float, cv: float
) -> NDArray[np.float64]:
    """Seconds between arrivals, float64 [count]: of a gamma distribution, or even for `cv` 0."""
    if cv < _SMALLEST_CV:
        return np.full(count, 1 / rate_per_s)
    return rng.gamma(shape=1 / cv**2, scale=cv**2 / rate_per_s, size=count)


def draw_lengths(rng: np.random.RandomState, lengths: Lengths, count: int) -> list[int]:
    """Tokens, from the first to just below the second, evenly."""
    numbers: list[int] = rng.randint(*lengths, count).tolist()
    return numbers


def round_times(times_s: NDArray[Any]) -> list[float]:
    """To microseconds."""
    return [round(time_s, 6) for time_s in times_s.tolist()]


def in_order(requests: Iterable[WorkRequest]) -> list[WorkRequest]:
    """Requests of several sources in the order of their arrival, with their index in it.

    Args:
        requests: their `index` is any number that no other has; `after` is told by these.
    """
    ordered = sorted(requests, key=lambda request: (request.arrival_s, request.index))
    places = {request.index: place for place, request in enumerate(ordered)}
    return [
        replace(
            request,
            index=place,
            after=None if request.after is None else places[request.after],
        )
        for place, request in enumerate(ordered)
    ]
