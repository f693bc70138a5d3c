"""Counters, histograms and gauges in Prometheus' format.

Owns: what the API process counts, and the bounds on the number of model labels.
Does not know: how a request is answered, the engine's figures (`engine_metrics.py`), nor those by
tenant (`tenant_metrics.py`).
Nothing here is global: each app has its own registry.

A label value is a time series per metric for ever, and a histogram is one per bucket. So counters
name more models than histograms do, and these have few buckets: with every label in use, all
histograms together are some 4,000 series.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from motet.server.bounded_labels import BoundedLabels
from motet.server.engine_metrics import EngineCollector, Snapshot
from motet.server.refusals import RefusalReason
from motet.server.tenant_metrics import TenantMetrics

MAX_MODEL_LABELS = 256  # of counters and gauges
MAX_HISTOGRAM_LABELS = 64

_LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ITL_BUCKETS_S = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
_LAG_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Histograms of one model [seconds].

    Attributes:
        ttft_s: from a request's arrival to the first token of each choice.
        itl_s: between the tokens of a choice.
        queue_s: from queueing a sequence in the engine to its first step.
    """

    ttft_s: Histogram
    itl_s: Histogram
    queue_s: Histogram


class Metrics:
    """What one server counts.

    Attributes:
        tenants: what it counts by tenant.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._model_labels = BoundedLabels(MAX_MODEL_LABELS)
        self._histogram_labels = BoundedLabels(MAX_HISTOGRAM_LABELS)
        self._requests = Counter(
            "motet_requests",
            "Generation requests by model and HTTP status; 499 is a client that left, and a "
            "stream that broke counts as what broke it.",
            ["model", "status"],
            registry=self._registry,
        )
        self._generations = Counter(
            "motet_generations",
            "Generation requests that the engine was given, by what they run on: base, adapter, "
            "routed_set, composition.",
            ["kind"],
            registry=self._registry,
        )
        self._errors = Counter(
            "motet_errors",
            "Requests to any route that came to an error, by its code.",
            ["code"],
            registry=self._registry,
        )
        self._refused = Counter(
            "motet_refused_requests",
            "Of the requests that came to an error, those that were refused because there was too "
            "much to do, by what there was too much of.",
            ["reason"],
            registry=self._registry,
        )
        for reason in RefusalReason:  # also while there are none: one can only watch what is there
            self._refused.labels(reason.value)
        self._active = Gauge(
            "motet_active_requests",
            "Generation requests that the engine has been given, queued or running, by model.",
            ["model"],
            registry=self._registry,
        )
        self._prompt_tokens = Counter(
            "motet_prompt_tokens", "Tokens of prompts.", ["model"], registry=self._registry
        )
        self._output_tokens = Counter(
            "motet_output_tokens", "Generated tokens.", ["model"], registry=self._registry
        )
        self._ttft_s = self._histogram(
            "motet_time_to_first_token_seconds",
            "From a request's arrival to a choice's first token.",
        )
        self._itl_s = self._histogram(
            "motet_inter_token_latency_seconds", "Between the tokens of a choice.", _ITL_BUCKETS_S
        )
        self._queue_s = self._histogram(
            "motet_queue_time_seconds", "From queueing a sequence in the engine to its first step."
        )
        self._e2e_s = self._histogram(
            "motet_request_duration_seconds", "From a request's arrival to the end of its answer."
        )
        self._loop_lag_s = Histogram(
            "motet_event_loop_lag_seconds",
            "How much later than asked for the API process's event loop woke up.",
            buckets=_LAG_BUCKETS_S,
            registry=self._registry,
        )
        self.tenants = TenantMetrics(self._registry)
        self._engine = EngineCollector()
        self._registry.register(self._engine)
        ProcessCollector(registry=self._registry)
        ProcessCollector("motet_engine", self._engine_process, registry=self._registry)

    def latencies_of(self, label: str) -> Latencies:
        """The histograms of a model's generations."""
        model = self._histogram_labels.of(label)
        return Latencies(
            self._ttft_s.labels(model), self._itl_s.labels(model), self._queue_s.labels(model)
        )

    def observe_request(self, label: str | None, status: int, duration_s: float) -> None:
        """Count a finished generation request. No label: it never got as far as a model."""
        self._requests.labels(self._model_label(label), str(status)).inc()
        model = "" if label is None else self._histogram_labels.of(label)
        self._e2e_s.labels(model).observe(duration_s)

    def count_generation(self, kind: str) -> None:
        """Count a generation request that the engine was given, by what it runs on."""
        self._generations.labels(kind).inc()

    def observe_error(self, code: str) -> None:
        """Count an error that a client was told, or would have been told had it not left."""
        self._errors.labels(code).inc()

    def count_refusal(self, reason: RefusalReason) -> None:
        """Count a request that was refused for want of room or time, which is an error too."""
        self._refused.labels(reason.value).inc()

    def observe_loop_lag(self, lag_s: float) -> None:
        """Note how late the event loop was."""
        self._loop_lag_s.observe(lag_s)

    def add_active(self, label: str, num_requests: int) -> None:
        """Count requests that the engine has been given, or, negative, that it is done with."""
        self._active.labels(self._model_label(label)).inc(num_requests)

    def add_tokens(self, label: str, num_prompt: int, num_output: int) -> None:
        """Count the tokens of a request."""
        model = self._model_label(label)
        self._prompt_tokens.labels(model).inc(num_prompt)
        self._output_tokens.labels(model).inc(num_output)

    def update(self, snapshot: Snapshot) -> None:
        """Take what is shown as it is now, rather than counted."""
        self._engine.update(snapshot)
        self.tenants.set_queued(snapshot.num_queued_by_tenant)

    def exposition(self) -> bytes:
        """All metrics, as of the last `update`. Takes milliseconds; may run in any thread."""
        return generate_latest(_WithoutCreationTimes(self._registry))

    def _model_label(self, label: str | None) -> str:
        return "" if label is None else self._model_labels.of(label)

    def _engine_process(self) -> str:
        return str(self._engine.pid)

    def _histogram(
        self, name: str, help_text: str, buckets: tuple[float, ...] = _LATENCY_BUCKETS_S
    ) -> Histogram:
        return Histogram(name, help_text, ["model"], buckets=buckets, registry=self._registry)


class _WithoutCreationTimes(Collector):
    """A registry without the times at which counters were created: a series each, of no use."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
            yield metric
