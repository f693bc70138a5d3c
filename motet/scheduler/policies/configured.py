"""The policy that an engine's options ask for.

Owns: which options a policy is told.
Does not know: which policies there are (`choose.py`).
"""

from motet.core.config import EngineConfig
from motet.scheduler.policies.choose import PolicyOptions, make_policy
from motet.scheduler.policy import PolicyFactory


def configured_policy(config: EngineConfig) -> PolicyFactory:
    """The policy of a configuration.

    Raises:
        ConfigError: there is no such policy, or it cannot be as asked for.
    """
    options = PolicyOptions(
        ttft_slo_s=config.ttft_slo_s, num_cluster_adapters=config.num_cluster_adapters
    )
    return make_policy(config.policy, options)
