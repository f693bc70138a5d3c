"""Small requests do not wait behind large ones, and large ones are not starved.

Owns: what a request is expected to take, the classes of sizes, and each class's share.
Does not know: tenants.

From Chameleon (arXiv:2411.17741) come the weighted size of a request (its prompt, the output that
is predicted, its adapter), the queues by size, each of which is given its share, and that nobody
who runs is sent back for the sake of a smaller one. Done otherwise: the output is predicted from
what an adapter's requests took before, not by a model. The queues are of fixed ratios, not of
clusters of the latest sizes, so nobody changes the queue, and a workload of one size is first come,
first served. Shares are of what is called, not of the memory that is held; none is ever left idle.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from math import ceil
from operator import itemgetter

from motet.scheduler.policy import Policy, QueuedRequest

# An output token takes a step and stays to the end, and one of the prompt shares its step with
# many: VTC and price lists have it at two or more.
OUTPUT_WEIGHT = 2
# Sizes of a class are within a factor of 4 of each other: what one waits for another of its class
# is no more than a few times its own size, and all sizes there are make less than ten classes.
CLASS_BITS = 2
# Averages are over about this many requests: enough to be steady, few enough to follow a change.
AVERAGED_REQUESTS = 32
# Adapters whose outputs are remembered. Those used least recently are forgotten.
REMEMBERED_ADAPTERS = 4096


@dataclass(slots=True)
class _Average:
    """The mean of the first values, then a moving one."""

    mean: float = 0.0
    num_values: int = 0

    def add(self, value: float) -> None:
        self.num_values = min(self.num_values + 1, AVERAGED_REQUESTS)
        self.mean += (value - self.mean) / self.num_values


class OutputLengths:
    """How much is generated, by adapter, as learnt from requests that ended.

    It is shared by all priorities, and outlives the times at which nobody waits.
    """

    def __init__(self) -> None:
        self._overall = _Average()
        self._by_adapters: OrderedDict[tuple[str, ...], _Average] = OrderedDict()

    def predict(self, request: QueuedRequest) -> int:
        """Tokens that a request will probably generate, `max_output_tokens` at most.

        As many as others of its adapters did on average; if there were none, as many as all others
        did; if nobody has ended yet, all that it may.
        """
        average = self._by_adapters.get(request.adapters, self._overall)
        if average.num_values == 0:
            return request.max_output_tokens
        return min(ceil(average.mean), request.max_output_tokens)

    def learn(self, request: QueuedRequest, num_output_tokens: int) -> None:
        """A request has ended after so many."""
        self._overall.add(num_output_tokens)
        average = self._by_adapters.setdefault(request.adapters, _Average())
        average.add(num_output_tokens)
        self._by_adapters.move_to_end(request.adapters)
        if len(self._by_adapters) > REMEMBERED_ADAPTERS:
            self._by_adapters.popitem(last=False)


@dataclass(eq=False, slots=True)
class _SizeClass:
    """Waiting requests of about one size, with their sizes, oldest first.

    Attributes:
        served: sum of the sizes that have been called of it, or what it was lifted to.
    """

    served: int = 0
    sizes: OrderedDict[QueuedRequest, int] = field(default_factory=OrderedDict)

    def turns(self) -> Iterator[tuple[int, QueuedRequest]]:
        """Its requests, each with what will have been served when its turn comes."""
        served = self.served
        for request, size in self.sizes.items():
            yield served, request
            served += size


class SizeAware(Policy):
    """An equal share for each class of sizes, first come, first served within a class.

    Whose class has been served least is next (start-time fair queueing, Goyal et al. 1996): of two
    classes of which both have someone waiting all the time, neither gets more than the other by
    more than the sum of their largest sizes. Small requests are many to a share, so they hardly
    wait; a large one waits until each other class has been given about as much as its own class
    was. A class that nobody waited in has no claim to what it missed meanwhile.

    Args:
        lengths: predicts outputs, and learns from them.
    """

    def __init__(self, lengths: OutputLengths) -> None:
        self._lengths = lengths
        self._classes: dict[int, _SizeClass] = {}  # by `_class_of`
        self._waiting: dict[QueuedRequest, _SizeClass] = {}
        self._num_output_tokens: dict[QueuedRequest, int] = {}  # of those that have got any

    def add(self, request: QueuedRequest) -> None:
        size = self._size(request)
        if not self._waiting:
            self._classes.clear()  # nobody is owed anything
        size_class = self._classes.setdefault(_class_of(size), _SizeClass())
        if self._waiting and not size_class.sizes:
            size_class.served = max(size_class.served, self._next_class().served)
        size_class.sizes[request] = size
        self._waiting[request] = size_class

    def remove(self, request: QueuedRequest) -> None:
        del self._waiting.pop(request).sizes[request]

    def next(self, in_play: Collection[str]) -> QueuedRequest | None:
        return next(iter(self._next_class().sizes)) if self._waiting else None

    def upcoming(self, count: int) -> list[QueuedRequest]:
        # Those of one class come in its order; classes with the same claim, the smallest first.
        turns = (self._classes[index].turns() for index in sorted(self._classes))
        return [request for _, request in islice(merge(*turns, key=itemgetter(0)), count)]

    def call(self, request: QueuedRequest) -> None:
        size_class = self._waiting[request]
        size_class.served += size_class.sizes[request]
        self.remove(request)

    def count_output(self, request: QueuedRequest, num_tokens: int, now_s: float) -> None:
        self._num_output_tokens[request] = self._num_output_tokens.get(request, 0) + num_tokens

    def end(self, request: QueuedRequest) -> None:
        num_output_tokens = self._num_output_tokens.pop(request, None)
        if num_output_tokens is not None:
            self._lengths.learn(request, num_output_tokens)

    def _size(self, request: QueuedRequest) -> int:
        """What it takes, in tokens: prompt, output, and those in whose place the adapters lie."""
        num_output_tokens = self._lengths.predict(request)
        num_own_tokens = request.num_prompt_tokens + OUTPUT_WEIGHT * num_output_tokens
        return num_own_tokens + request.num_adapter_tokens

    def _next_class(self) -> _SizeClass:
        """Of those with anyone waiting, the one that has been served least; else the smallest."""
        backlogged = ((i, each) for i, each in self._classes.items() if each.sizes)
        return min(backlogged, key=lambda each: (each[1].served, each[0]))[1]


def _class_of(size: int) -> int:
    return size.bit_length() // CLASS_BITS
