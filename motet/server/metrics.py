"""Counters, histograms and gauges in Prometheus' format.

Owns: what the API process counts, and the bound on the number of adapter labels.
Does not know: how a request is answered, nor the engine's figures (`engine_metrics.py`).
Nothing here is global: each app has its own registry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from motet.core.messages import EngineStats
from motet.server.engine_metrics import EngineCollector

# Each adapter label is a time series per metric for ever; beyond this they share one.
MAX_ADAPTER_LABELS = 256
OTHER_ADAPTERS = "_other"

_LATENCY_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)


class Metrics:
    """What one server counts.

    Attributes:
        ttft_s: time from arrival to the first token of each choice.
        itl_s: time between the tokens of a choice.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._adapter_labels: set[str] = set()
        self._requests = Counter(
            "motet_requests",
            "Generation requests by model and HTTP status; 499 is a client that left, and a "
            "stream that broke counts as what broke it.",
            ["model", "status"],
            registry=self._registry,
        )
        self._prompt_tokens = Counter(
            "motet_prompt_tokens", "Tokens of prompts.", ["model"], registry=self._registry
        )
        self._output_tokens = Counter(
            "motet_output_tokens", "Generated tokens.", ["model"], registry=self._registry
        )
        self.ttft_s = self._histogram(
            "motet_time_to_first_token_seconds",
            "From a request's arrival to a choice's first token.",
        )
        self.itl_s = self._histogram(
            "motet_inter_token_latency_seconds", "Between the tokens of a choice."
        )
        self._e2e_s = self._histogram(
            "motet_request_duration_seconds", "From a request's arrival to the end of its answer."
        )
        self._ready = Gauge(
            "motet_engine_ready", "1 if the engine takes requests.", registry=self._registry
        )
        self._engine = EngineCollector()
        self._registry.register(self._engine)

    def observe_request(self, adapter_label: str | None, status: int, duration_s: float) -> None:
        """Count a finished generation request. No label: it never got as far as a model."""
        model = "" if adapter_label is None else self._bounded(adapter_label)
        self._requests.labels(model, str(status)).inc()
        self._e2e_s.observe(duration_s)

    def add_tokens(self, adapter_label: str, num_prompt: int, num_output: int) -> None:
        """Count the tokens of a request."""
        model = self._bounded(adapter_label)
        self._prompt_tokens.labels(model).inc(num_prompt)
        self._output_tokens.labels(model).inc(num_output)

    def render(
        self,
        stats: EngineStats | None,
        *,
        is_ready: bool,
        num_adapters: int,
        names_of: Callable[[str], Sequence[str]],
    ) -> bytes:
        """The exposition. Without `stats` (the engine is down) its own metrics are left out."""
        self._ready.set(1 if is_ready else 0)
        self._engine.update(stats, num_adapters, names_of)
        return generate_latest(self._registry)

    def _bounded(self, label: str) -> str:
        if label in self._adapter_labels:
            return label
        if len(self._adapter_labels) >= MAX_ADAPTER_LABELS:
            return OTHER_ADAPTERS
        self._adapter_labels.add(label)
        return label

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(name, help_text, buckets=_LATENCY_BUCKETS_S, registry=self._registry)
