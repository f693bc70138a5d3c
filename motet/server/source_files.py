"""The files that make an adapter, and those that make a routed set.

Owns: their names, relative to a source.
Does not know: where a source is, nor how bytes come from it.
"""

from __future__ import annotations

from motet.adapters.router_config import (
    ROUTER_CONFIG_NAME,
    ROUTER_WEIGHTS_NAME,
    parse_router_config,
)
from motet.adapters.routing_methods import METHODS

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def files_of_set(config: bytes) -> list[str]:
    """The files of the routed set that has this configuration, and of the experts that lie in it.

    All of them are below the set's directory: a configuration that says otherwise is refused.

    Raises:
        AdapterError: the configuration is none.
    """
    parsed = parse_router_config(config)
    weights = [ROUTER_WEIGHTS_NAME] if METHODS[parsed.method].has_tensors else []
    experts = [each.path for each in parsed.members if each.path is not None]
    files = [f"{path}/{file}" for path in experts for file in ADAPTER_FILES]
    return [ROUTER_CONFIG_NAME, *weights, *files]
