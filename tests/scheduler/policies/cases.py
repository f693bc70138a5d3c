"""All policies, for the tests that hold of each.

Owns: how each is made, and what it promises to those who wait.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from motet.scheduler.policies.cluster import MAX_OVERTAKING, Cluster
from motet.scheduler.policies.fair import Fair, TokenCounters
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policies.service_rate import ServiceRate
from motet.scheduler.policies.size_aware import OutputLengths, SizeAware
from motet.scheduler.policies.slo import Slo
from motet.scheduler.policy import PolicyFactory

MAX_REQUEST_TOKENS = 64 + 2 * 32 + 16
"""The size of the largest request that these promises are about: prompt, output, adapters."""

NUM_SIZE_CLASSES = 5
"""Classes that sizes up to it make."""


@dataclass(frozen=True)
class Case:
    """A policy, and its promise.

    Attributes:
        make_factory: what priorities share is new each time.
        max_calls: after how many calls, at most, one is called that arrives behind so many;
            infinite if it may be refused instead, or if that depends on what others were served.
    """

    make_factory: Callable[[], PolicyFactory]
    max_calls: Callable[[int], float]


def _clustered(make_factory: Callable[[], PolicyFactory], d: int) -> Callable[[], PolicyFactory]:
    def make() -> PolicyFactory:
        make_order = make_factory()
        return lambda: Cluster(make_order(), d)

    return make


def _fcfs() -> PolicyFactory:
    return Fcfs


def _size_aware() -> PolicyFactory:
    lengths = OutputLengths()
    return lambda: SizeAware(lengths)


def _fair() -> PolicyFactory:
    counters = TokenCounters()
    return lambda: Fair(counters)


def _in_time(
    make_factory: Callable[[], PolicyFactory], *, newest_first: bool
) -> Callable[[], PolicyFactory]:
    def make() -> PolicyFactory:
        make_order, rate = make_factory(), ServiceRate(6.0)
        return lambda: Slo(make_order(), rate, 6.0, newest_first=newest_first)

    return make


def _some_time(num_ahead: int) -> float:
    return inf


def _first_come(num_ahead: int) -> float:
    return num_ahead + 1


def _by_size(num_ahead: int) -> float:
    """All ahead are large and of its class; those of the others are as small as can be."""
    return num_ahead + 1 + NUM_SIZE_CLASSES * (num_ahead + 2) * MAX_REQUEST_TOKENS


def _some_overtake(max_calls: Callable[[int], float]) -> Callable[[int], float]:
    return lambda num_ahead: max_calls(num_ahead) * (MAX_OVERTAKING + 1)


CASES = {
    "fcfs": Case(_fcfs, _first_come),
    "cluster": Case(_clustered(_fcfs, 2), _some_overtake(_first_come)),
    "cluster, d = 1": Case(_clustered(_fcfs, 1), _some_overtake(_first_come)),
    "size_aware": Case(_size_aware, _by_size),
    "size_aware+cluster": Case(_clustered(_size_aware, 2), _some_overtake(_by_size)),
    "fair": Case(_fair, _some_time),
    "fair+cluster": Case(_clustered(_fair, 2), _some_time),
    "slo": Case(_in_time(_fcfs, newest_first=True), _some_time),
    "fair+slo": Case(_in_time(_fair, newest_first=False), _some_time),
    "size_aware+cluster+slo": Case(
        _in_time(_clustered(_size_aware, 2), newest_first=False), _some_time
    ),
}
