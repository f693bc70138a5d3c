"""What /metrics counts by tenant."""

from prometheus_client import CollectorRegistry, generate_latest

from motet.server.bounded_labels import OTHER
from motet.server.tenant_metrics import MAX_TENANT_LABELS, TenantMetrics
from tests.server.test_metrics import Samples, parsed

TOKENS, QUEUED = "motet_tenant_tokens_total", "motet_tenant_queued_sequences"


def samples_of(registry: CollectorRegistry) -> Samples:
    return parsed(generate_latest(registry).decode())


def of(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


def test_tokens_add_up_and_what_waits_is_as_of_now() -> None:
    registry = CollectorRegistry()
    metrics = TenantMetrics(registry)
    metrics.add_tokens("acme", 3, 4)
    metrics.add_tokens("acme", 10, 0)
    metrics.add_tokens(None, 1, 2)
    metrics.set_queued({"acme": 5, "bolt": 6})
    samples = samples_of(registry)
    assert samples[of(TOKENS, tenant="acme", kind="prompt")] == 13
    assert samples[of(TOKENS, tenant="acme", kind="output")] == 4
    assert samples[of(TOKENS, tenant="", kind="output")] == 2
    queued = {"acme": 5, "bolt": 6, "": 0}
    assert {name: samples[of(QUEUED, tenant=name)] for name in queued} == queued
    metrics.set_queued({"bolt": 1})
    samples = samples_of(registry)
    assert samples[of(QUEUED, tenant="acme")] == 0
    assert samples[of(QUEUED, tenant="bolt")] == 1


def test_the_number_of_tenants_that_are_named_is_bounded() -> None:
    registry = CollectorRegistry()
    metrics = TenantMetrics(registry)
    names = [f"tenant-{number}" for number in range(MAX_TENANT_LABELS + 7)]
    for name in names:
        metrics.add_tokens(name, 1, 2)
    metrics.set_queued(dict.fromkeys(names, 3))
    samples = samples_of(registry)
    series = [labels for name, labels in samples if name == QUEUED]
    assert len(series) == MAX_TENANT_LABELS + 1
    assert samples[of(QUEUED, tenant=OTHER)] == 7 * 3
    assert samples[of(TOKENS, tenant=OTHER, kind="output")] == 7 * 2
    metrics.set_queued({})
    samples = samples_of(registry)
    assert {value for (name, _), value in samples.items() if name == QUEUED} == {0}
