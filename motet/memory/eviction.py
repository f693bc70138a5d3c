"""What goes first when pages are short: one order over cached prefixes and idle adapters.

Owns: the worth of keeping something in the pool.
Does not know: pages, tensors, nor who asks for room (`memory/reclaim.py` compares and evicts).

Keeping something is worth the seconds that it is expected to save, over the memory that it takes.
All pages are of one size, so memory is counted in pages:

    value(x) = rate(x) * cost_s(kind of x)

    rate(x)  = p * 2^(-(now - t_0) / H)  +  sum over i of 2^(-(now - t_i) / H)

    now      requests that have been queued so far
    t_0      when x came; t_1, t_2, ... when it was asked for again
    H        half-life [requests]: a use that lies H requests back counts half
    p        share of the things of its kind that were ever asked for again: what is new is worth
             what new things have turned out to be worth
    cost_s   seconds to bring one page back, measured while the engine runs: computing the KV of a
             prefix again, or copying an adapter in

`rate` is LRFU's "combined recency and frequency" (Lee et al., IEEE Trans. Computers 50(12), 2001);
cost over size is GreedyDual-Size's (Cao and Irani, USENIX Symposium on Internet Technologies and
Systems, 1997). Every term fades by the same factor as time goes by, so the order of two things of
one kind changes only when one of them is used, and that of the kinds only with their costs. That
is why a weight can be kept as

    weight(x) = log2(rate(x)) + now / H

which stays as it is between uses, and why a heap can hold it (`memory/candidates.py`).
"""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

HALF_LIFE_REQUESTS = 128
# The share of a measured cost that each new measurement replaces.
_LEARNING_RATE = 0.1


class Kind(Enum):
    """What can be evicted."""

    PREFIX = "prefix"  # one page of cached KV
    ADAPTER = "adapter"  # all pages of an idle adapter


@dataclass
class PageCosts:
    """Seconds to bring back one page, by kind: a moving average of what it took lately.

    The first values only have to be of the right order: they are measured soon.
    """

    prefix_s: float = 1e-2
    adapter_s: float = 1e-3

    def observe(self, kind: Kind, seconds: float, num_pages: float) -> None:
        """Learn from one computation or copy of `num_pages` pages."""
        if num_pages <= 0 or seconds <= 0:
            return
        if kind is Kind.PREFIX:
            self.prefix_s += _LEARNING_RATE * (seconds / num_pages - self.prefix_s)
        else:
            self.adapter_s += _LEARNING_RATE * (seconds / num_pages - self.adapter_s)

    def of(self, kind: Kind) -> float:
        return self.prefix_s if kind is Kind.PREFIX else self.adapter_s


class EvictionPolicy(Protocol):
    """Weights of things of both kinds. The least value goes first."""

    def tick(self) -> None:
        """A request was queued: time goes on."""
        ...

    def first(self, kind: Kind) -> float:
        """The weight of something that has just come."""
        ...

    def again(self, kind: Kind, weight: float, *, was_used_again: bool) -> float:
        """The weight after one more use; `was_used_again`: it is not the first since it came."""
        ...

    def value(self, kind: Kind, weight: float) -> float:
        """What makes weights of both kinds comparable, per page."""
        ...


@dataclass
class _Reuse:
    """How many things of a kind came, and how many of these were asked for again."""

    num_came: int = 0
    num_used_again: int = 0

    @property
    def share(self) -> float:
        """Between 0 and 1, and 1/2 while nothing is known (Laplace's rule of succession)."""
        return (self.num_used_again + 1) / (self.num_came + 2)


@dataclass
class SavingPolicy:
    """By expected saving per page: the formula above."""

    costs: PageCosts
    half_life_requests: float = HALF_LIFE_REQUESTS
    _now: int = 0
    _reuse: dict[Kind, _Reuse] = field(default_factory=lambda: {kind: _Reuse() for kind in Kind})

    def tick(self) -> None:
        self._now += 1

    def first(self, kind: Kind) -> float:
        reuse = self._reuse[kind]
        share = reuse.share
        reuse.num_came += 1
        return self._now / self.half_life_requests + math.log2(share)

    def again(self, kind: Kind, weight: float, *, was_used_again: bool) -> float:
        if not was_used_again:
            self._reuse[kind].num_used_again += 1
        now = self._now / self.half_life_requests
        larger, smaller = max(weight, now), min(weight, now)
        return larger + math.log2(1.0 + 2.0 ** (smaller - larger))

    def value(self, kind: Kind, weight: float) -> float:
        return weight + math.log2(self.costs.of(kind))


@dataclass
class LruPolicy:
    """The least recently used goes first, whatever it is. For comparison."""

    _now: int = 0

    def tick(self) -> None:
        self._now += 1

    def first(self, kind: Kind) -> float:
        return float(self._now)

    def again(self, kind: Kind, weight: float, *, was_used_again: bool) -> float:
        return float(self._now)

    def value(self, kind: Kind, weight: float) -> float:
        return weight
