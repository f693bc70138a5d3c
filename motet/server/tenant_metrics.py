"""What each tenant uses, and what of theirs waits: for whoever shares a server out fairly.

Owns: these metrics, and the bound on the number of tenants that they name.
Does not know: how turns are shared (the scheduling policy does that, in the engine).
"""

from __future__ import annotations

from collections import Counter as CounterOf
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from motet.server.bounded_labels import BoundedLabels

# A tenant is named by a key of the operator's, so they are few; but a file of keys may change.
MAX_TENANT_LABELS = 256


class TenantMetrics:
    """Counts by tenant. The label is empty for requests without a key.

    Args:
        registry: where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._labels = BoundedLabels(MAX_TENANT_LABELS)
        self._tokens = Counter(
            "motet_tenant_tokens",
            "Tokens by the tenant whose key the request came with; kind is prompt or output.",
            ["tenant", "kind"],
            registry=registry,
        )
        self._queued = Gauge(
            "motet_tenant_queued_sequences",
            "Sequences that wait for their first token, by tenant.",
            ["tenant"],
            registry=registry,
        )

    def add_tokens(self, tenant: str | None, num_prompt: int, num_output: int) -> None:
        """Count the tokens of a request."""
        label = self._label(tenant)
        self._tokens.labels(label, "prompt").inc(num_prompt)
        self._tokens.labels(label, "output").inc(num_output)

    def set_queued(self, num_by_tenant: Mapping[str | None, int]) -> None:
        """Show how many wait now; of a tenant that is not there, none."""
        num_queued: CounterOf[str] = CounterOf()
        for tenant, number in num_by_tenant.items():
            num_queued[self._label(tenant)] += number
        for label in self._labels.values:
            self._queued.labels(label).set(num_queued[label])

    def _label(self, tenant: str | None) -> str:
        return self._labels.of("" if tenant is None else tenant)
