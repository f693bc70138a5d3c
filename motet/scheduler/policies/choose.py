"""Policies by name.

Owns: which names there are, and how they are joined.
"""

from dataclasses import dataclass

from motet.core.errors import ConfigError
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policy import PolicyFactory


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """What policies can be told.

    Attributes:
        ttft_slo_s: within how long a first token is worth something.
        num_cluster_adapters: adapters that a batch should have at most.
    """

    ttft_slo_s: float
    num_cluster_adapters: int


def make_policy(spec: str, options: PolicyOptions) -> PolicyFactory:
    """The policy of this name, or of several joined by "+".

    Raises:
        ConfigError: there is no such policy, or these cannot be joined.
    """
    if spec == "fcfs":
        return Fcfs
    raise ConfigError(f"There is no policy {spec!r}.", param="policy")
