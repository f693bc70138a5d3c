"""Everything that manages adapters, put together.

Owns: nothing; it builds the parts over one registry, and names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from motet.server.adapter_changes import AdapterChanges
from motet.server.deployments import Deployments
from motet.server.engine_client import EngineClient
from motet.server.registry import AdapterRegistry
from motet.server.sources import Sources
from motet.server.transitions import Transitions


@dataclass(frozen=True, slots=True)
class AdapterAdmin:
    """What an admin can do to adapters: deploy new versions, and change what there is."""

    deployments: Deployments
    changes: AdapterChanges

    @classmethod
    def over(cls, client: EngineClient, registry: AdapterRegistry, sources: Sources) -> Self:
        """The parts over a registry."""
        transitions = Transitions(registry.records, registry.holdings)
        return cls(
            Deployments(client, registry, transitions, sources),
            AdapterChanges(client, registry, transitions, sources),
        )

    def close(self) -> None:
        """End what is under way: the server ends."""
        self.deployments.close()
        self.changes.close()
