"""Adapter clustering: batches of few adapters, over any order.

Owns: which waiting requests need no adapter that is not in play, and how often they may go first.
Does not know: the order of all others.

The idea is S-LoRA's: once a batch has d adapters, fill it with requests of these. Each adapter more
takes memory from the KV cache, a copy to the device, and more work of the kernels. S-LoRA lets the
request of a cold adapter wait for as long as others keep coming; here it waits for a bounded number
of them.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

from motet.scheduler.policy import Policy, QueuedRequest, Refusal

# Requests in a row that may be called before the order's own next one. Of so many calls one may
# bring in an adapter beyond d: a batch of B requests then has about d + B / 32 adapters. More would
# hardly make fewer, and lets the others wait longer.
MAX_OVERTAKING = 32


@dataclass(eq=False, slots=True)
class _Group:
    """The waiting requests that use the same adapters, oldest first.

    Attributes:
        home: the adapter under which the group is found.
    """

    adapters: tuple[str, ...]
    home: str
    requests: OrderedDict[QueuedRequest, None] = field(default_factory=OrderedDict)

    @property
    def oldest(self) -> QueuedRequest:
        return next(iter(self.requests))


class AdapterIndex:
    """Waiting requests by what they use.

    A look-up takes time in proportion to the adapters in play, however many wait. Groups of several
    adapters are kept under the one that the fewest groups are kept under, so that compositions with
    a popular adapter are not all looked at whenever that is in play.
    """

    def __init__(self) -> None:
        self._base: OrderedDict[QueuedRequest, None] = OrderedDict()
        self._groups: dict[tuple[str, ...], _Group] = {}
        self._homes: dict[str, set[_Group]] = {}

    def add(self, request: QueuedRequest) -> None:
        """It waits from now on; it is younger than all that wait."""
        if not request.adapters:
            self._base[request] = None
            return
        group = self._groups.get(request.adapters)
        if group is None:
            group = self._groups[request.adapters] = self._settle(request.adapters)
        group.requests[request] = None

    def remove(self, request: QueuedRequest) -> None:
        """It waits no longer."""
        if not request.adapters:
            del self._base[request]
            return
        group = self._groups[request.adapters]
        del group.requests[request]
        if not group.requests:
            del self._groups[group.adapters]
            self._homes[group.home].remove(group)
            if not self._homes[group.home]:
                del self._homes[group.home]

    def oldest(self, in_play: Collection[str]) -> QueuedRequest | None:
        """The oldest request whose adapters are all in play; the base model needs none."""
        oldest = next(iter(self._base), None)
        for digest in in_play:
            for group in self._homes.get(digest, ()):
                candidate = group.oldest
                is_older = oldest is None or candidate.arrival < oldest.arrival
                if is_older and _fits(candidate, in_play):
                    oldest = candidate
        return oldest

    def _settle(self, adapters: tuple[str, ...]) -> _Group:
        home = min(adapters, key=lambda digest: len(self._homes.get(digest, ())))
        group = _Group(adapters, home)
        self._homes.setdefault(home, set()).add(group)
        return group


class Cluster(Policy):
    """Requests of the adapters in play first, once these are many; then another policy's order.

    While fewer than `num_adapters` are in play, the order decides. Then its next request is called
    only if its adapters are in play; otherwise the oldest request is for which that holds, if there
    is one. After `MAX_OVERTAKING` such calls in a row the order's own next one has its turn. So
    whoever the order alone would call as the k-th is at most the k (MAX_OVERTAKING + 1)-th.

    Source: S-LoRA (arXiv:2311.03285), adapter clustering. The bound is added.

    Args:
        order: says who is next otherwise, whatever is in play; it is told of all that happens.
        num_adapters: how many are many.
    """

    def __init__(self, order: Policy, num_adapters: int) -> None:
        self._order = order
        self._num_adapters = num_adapters
        self._index = AdapterIndex()
        self._num_overtaking = 0  # calls since the last one of the order's own choice

    def add(self, request: QueuedRequest) -> None:
        self._order.add(request)
        self._index.add(request)

    def remove(self, request: QueuedRequest) -> None:
        self._order.remove(request)
        self._index.remove(request)

    def next(self, in_play: Collection[str]) -> QueuedRequest | None:
        chosen = self._order.next(in_play)
        if (
            chosen is None
            or len(in_play) < self._num_adapters
            or self._num_overtaking >= MAX_OVERTAKING
            or _fits(chosen, in_play)
        ):
            return chosen
        return self._index.oldest(in_play) or chosen

    def upcoming(self, count: int) -> list[QueuedRequest]:
        # Those who go before them need nothing that would have to be brought in.
        return self._order.upcoming(count)

    def call(self, request: QueuedRequest) -> None:
        is_in_turn = request is self._order.next(())
        self._num_overtaking = 0 if is_in_turn else self._num_overtaking + 1
        self._order.call(request)
        self._index.remove(request)

    def refusals(self, now_s: float) -> list[Refusal]:
        return self._order.refusals(now_s)

    def is_owed(self, request: QueuedRequest) -> bool:
        return self._order.is_owed(request)

    def has_excess(self, request: QueuedRequest) -> bool:
        return self._order.has_excess(request)

    def next_refusal_s(self) -> float | None:
        return self._order.next_refusal_s()

    def start(self, request: QueuedRequest, now_s: float) -> None:
        self._order.start(request, now_s)

    def count_output(self, request: QueuedRequest, num_tokens: int, now_s: float) -> None:
        self._order.count_output(request, num_tokens, now_s)

    def end(self, request: QueuedRequest) -> None:
        self._order.end(request)


def _fits(request: QueuedRequest, in_play: Collection[str]) -> bool:
    return all(digest in in_play for digest in request.adapters)
