"""Policies by name.

Owns: which names there are, and how they are joined.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from motet.core.errors import ConfigError
from motet.scheduler.policies.cluster import Cluster
from motet.scheduler.policies.fair import Fair, TokenCounters
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policies.service_rate import ServiceRate
from motet.scheduler.policies.size_aware import OutputLengths, SizeAware
from motet.scheduler.policies.slo import Slo
from motet.scheduler.policy import Policy, PolicyFactory


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """What policies can be told.

    Attributes:
        ttft_slo_s: within how long a first token is worth something.
        num_cluster_adapters: adapters that a batch should have at most.
    """

    ttft_slo_s: float
    num_cluster_adapters: int


DEFAULT_ORDER = "fcfs"


def _fair() -> PolicyFactory:
    counters = TokenCounters()
    return lambda: Fair(counters)


def _size_aware() -> PolicyFactory:
    lengths = OutputLengths()
    return lambda: SizeAware(lengths)


ORDERS: dict[str, Callable[[], PolicyFactory]] = {
    DEFAULT_ORDER: lambda: Fcfs,
    "fair": _fair,
    "size_aware": _size_aware,
}
"""What makes the policies of one server; of these, one is chosen."""

ON_TOP = ("cluster", "slo")
"""What goes over an order; each may be added."""


def make_policy(spec: str, options: PolicyOptions) -> PolicyFactory:
    """The policy of this name, or of several joined by "+", such as "fair+slo".

    One order at most (first come, first served if none is named), and over it any of the others.
    In which order they are named makes no difference.

    Raises:
        ConfigError: there is no such policy, these cannot be joined, or an option is out of range.
    """
    names = spec.split("+")
    order = _order(spec, names)
    _check(options)
    make = ORDERS[order]()
    if "cluster" in names:
        make = _clustered(make, options.num_cluster_adapters)
    if "slo" in names:
        newest_first = order == DEFAULT_ORDER and "cluster" not in names
        make = _in_time(make, options.ttft_slo_s, newest_first=newest_first)
    return make


def _order(spec: str, names: list[str]) -> str:
    """The one that is an order, once all names have been found to be good."""
    for name in names:
        if name not in ORDERS and name not in ON_TOP:
            raise ConfigError(
                f"There is no policy {name!r}. There are {', '.join([*ORDERS, *ON_TOP])}; join "
                'several with "+", without spaces.',
                param="policy",
            )
        if names.count(name) > 1:
            raise ConfigError(f"The policy {spec!r} names {name} twice.", param="policy")
    orders = [name for name in names if name in ORDERS]
    if len(orders) > 1:
        raise ConfigError(
            f"The policy {spec!r} names {' and '.join(orders)}, which cannot be joined: name one "
            f"of {', '.join(ORDERS)}, and {' or '.join(ON_TOP)} with it.",
            param="policy",
        )
    return orders[0] if orders else DEFAULT_ORDER


def _check(options: PolicyOptions) -> None:
    if not (math.isfinite(options.ttft_slo_s) and options.ttft_slo_s > 0):
        raise ConfigError(
            f"The SLO of first tokens is {options.ttft_slo_s} s; it has to be above 0.",
            param="ttft_slo_s",
        )
    if options.num_cluster_adapters < 1:
        raise ConfigError(
            f"Clusters of {options.num_cluster_adapters} adapters were asked for; there has to be "
            "at least 1.",
            param="num_cluster_adapters",
        )


def _clustered(make_order: PolicyFactory, num_adapters: int) -> PolicyFactory:
    return lambda: Cluster(make_order(), num_adapters)


def _in_time(make_order: PolicyFactory, slo_s: float, *, newest_first: bool) -> PolicyFactory:
    rate = ServiceRate(slo_s)

    def make() -> Policy:
        return Slo(make_order(), rate, slo_s, newest_first=newest_first)

    return make
