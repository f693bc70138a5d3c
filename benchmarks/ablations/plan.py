"""What an ablation consists of, as data.

Owns: the words: a part asks one question, its trials are the sides that are compared.
Does not know: how any is run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from motet.bench.measures import Summary

Kind = Literal["s1", "s2"]
"""S-LoRA's settings: rank 8, or ranks 8 to 64, on q, k, v and o."""


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """A server, in what it differs from the others. Equal ones are one server.

    Attributes:
        kind: of its adapters.
        policy, num_cluster_adapters, ttft_slo_s: see `EngineConfig`.
        prefix_cache: likewise. Off unless that is the question, so that no cache flatters.
        adapter_share: of the pool's pages, which are for adapters alone; None is one pool for all.
        pool_bytes: of the pool.
        merges: one adapter at a time, merged into the weights.
        has_tenants: the tenants of the workload `tenants` have keys.
    """

    kind: Kind = "s1"
    policy: str = "fcfs"
    num_cluster_adapters: int = 8
    ttft_slo_s: float = 6.0
    prefix_cache: bool = False
    adapter_share: float | None = None
    pool_bytes: int = 1 << 30
    merges: bool = False
    has_tenants: bool = False


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One side: a workload on a server.

    Attributes:
        name: within its part.
        workload, parameters: by name, as `motet bench` takes them.
        load: requests per second over what the server can do; None is a closed loop.
        num_clients: of a closed loop.
    """

    name: str
    server: ServerSpec = field(default_factory=ServerSpec)
    workload: str = "slora"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    load: float | None = None
    num_clients: int = 32


@dataclass(frozen=True, kw_only=True)
class Part:
    """One question.

    Attributes:
        question: for people.
        trials: the sides, which take turns.
        figures: what the sides' summaries come to, by the names of trials.
    """

    name: str
    question: str
    trials: Sequence[Trial]
    figures: Callable[[Mapping[str, Summary]], Mapping[str, float | None]]


def ratio(one: float | None, other: float | None) -> float | None:
    """The first over the second; None where that means nothing."""
    return None if one is None or not other else round(one / other, 4)
