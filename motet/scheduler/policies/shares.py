"""What each tenant has in play, against what it is owed of it.

Owns: the shares, by weight, of those who have anything waiting or in play.
Does not know: what tenants were served before (`counters.py`), nor whose turn it is.

A tenant's share is its part of all tokens in play, by its weight among those of all tenants that
are there. Whoever is alone is owed nothing more than it has.
"""

from dataclasses import dataclass

# What is left to a tenant that has excess, in shares. Requests grow as they run, so that tenants
# which get the same in the long run have now more and now less in play; nobody should be sent back
# for that.
EXCESS = 4 / 3


@dataclass(slots=True)
class _Share:
    weight: float
    num_requests: int = 0
    num_tokens: int = 0


class Shares:
    """Tokens in play, by tenant."""

    def __init__(self) -> None:
        self._shares: dict[str | None, _Share] = {}
        self._weight = 0.0
        self._num_tokens = 0

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
            # Summed anew: what is left of differences would grow for ever.
            self._weight = self._weight - share.weight if self._shares else 0.0

    def take(self, tenant: str | None, num_tokens: int) -> None:
        """It has more tokens in play; fewer, if the number is below 0."""
        self._shares[tenant].num_tokens += num_tokens
        self._num_tokens += num_tokens

    def num_tokens_of_others(self, tenant: str | None) -> int:
        """What all but this one have in play."""
        return self._num_tokens - self._shares[tenant].num_tokens

    def is_owed(self, tenant: str | None, num_tokens: int) -> bool:
        """Whether it would have no more than its share with so many tokens more."""
        if len(self._shares) < 2:
            return False
        share = self._shares[tenant]
        all_tokens = self._num_tokens + num_tokens
        return (share.num_tokens + num_tokens) * self._weight <= share.weight * all_tokens

    def has_excess(self, tenant: str | None, num_tokens: int) -> bool:
        """Whether it would have `EXCESS` times its share, or more, with so many tokens less."""
        if len(self._shares) < 2:
            return False
        share = self._shares[tenant]
        all_tokens = self._num_tokens - num_tokens
        least = EXCESS * share.weight * all_tokens
        return (share.num_tokens - num_tokens) * self._weight >= least
