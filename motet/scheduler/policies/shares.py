"""What each tenant has of the server now, against what it is owed.

Owns: the shares, by weight, of those who have anything waiting or in play.
Does not know: what tenants were served before that (`counters.py`), nor whose turn it is.

A tenant's share is its part of all, by its weight among those of all tenants that are there. It is
judged by two measures, and has too little or too much only by both. The tokens in play alone would
call a tenant of few long requests greedy, though it is served less than one of many short ones. The
tokens served of late alone change slowly: whoever has just come would be made room for long after
it has enough.
"""

import math
from dataclasses import dataclass

# What is left to a tenant that has excess, in shares. Requests grow as they run, so that tenants
# which get the same in the long run have now more and now less in play; nobody should be sent back
# for that.
EXCESS = 4 / 3
# "Of late": what was served so long ago counts e times less.
FADES_S = 10.0
# Services are summed with weights that grow with time; when these are this large, all are reduced.
_MAX_AGES = 100.0


@dataclass(slots=True)
class _Share:
    weight: float
    num_requests: int = 0
    num_tokens: int = 0  # in play
    service: float = 0.0  # of late, in weights of `_since_s`


class Shares:
    """Tokens in play and tokens served of late, by tenant."""

    def __init__(self) -> None:
        self._shares: dict[str | None, _Share] = {}
        self._since_s = 0.0
        # Of all of them:
        self._weight = 0.0
        self._num_tokens = 0
        self._service = 0.0

    def join(self, tenant: str | None, weight: float) -> None:
        """A request of a tenant is there. The weight of its latest request is the tenant's."""
        share = self._shares.setdefault(tenant, _Share(0.0))
        self._weight += weight - share.weight
        share.weight = weight
        share.num_requests += 1

    def leave(self, tenant: str | None) -> None:
        """A request of it is gone; its tokens have been given back."""
        share = self._shares[tenant]
        share.num_requests -= 1
        if share.num_requests == 0:
            del self._shares[tenant]
            # What is left of differences would grow for ever.
            self._weight = self._weight - share.weight if self._shares else 0.0
            self._service = self._service - share.service if self._shares else 0.0

    def take(self, tenant: str | None, num_tokens: int) -> None:
        """It has more tokens in play; fewer, if the number is below 0."""
        self._shares[tenant].num_tokens += num_tokens
        self._num_tokens += num_tokens

    def serve(self, tenant: str | None, service: float, now_s: float) -> None:
        """It is served: tokens, each with its cost."""
        ages = (now_s - self._since_s) / FADES_S
        if ages > _MAX_AGES:
            self._reduce(math.exp(-ages))
            self._since_s, ages = now_s, 0.0
        grown = service * math.exp(ages)
        self._shares[tenant].service += grown
        self._service += grown

    def num_tokens_of_others(self, tenant: str | None) -> int:
        """What all but this one have in play."""
        return self._num_tokens - self._shares[tenant].num_tokens

    def is_owed(self, tenant: str | None, num_tokens: int) -> bool:
        """Whether it has no more than its share, also with so many tokens more in play."""
        if len(self._shares) < 2:
            return False
        share = self._shares[tenant]
        part = share.weight / self._weight
        all_tokens = self._num_tokens + num_tokens
        return (
            share.num_tokens + num_tokens <= part * all_tokens
            and share.service <= part * self._service
        )

    def has_excess(self, tenant: str | None, num_tokens: int) -> bool:
        """Whether it has more than `EXCESS` shares, also with so many tokens less in play."""
        if len(self._shares) < 2:
            return False
        share = self._shares[tenant]
        part = EXCESS * share.weight / self._weight
        all_tokens = self._num_tokens - num_tokens
        return (
            share.num_tokens - num_tokens > part * all_tokens
            and share.service > part * self._service
        )

    def _reduce(self, factor: float) -> None:
        for share in self._shares.values():
            share.service *= factor
        self._service *= factor
