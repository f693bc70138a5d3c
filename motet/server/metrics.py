"""Counters, histograms and gauges in Prometheus' format.

Owns: the names of all metrics, and the bound on the number of adapter labels.
Does not know: how a request is answered. Nothing here is global: each app has its own registry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from motet.core.messages import EngineStats

# Each adapter label is a time series per metric for ever; beyond this they share one.
MAX_ADAPTER_LABELS = 256
OTHER_ADAPTERS = "_other"
# Adapter names in one label of lora_requests_info.
_MAX_LISTED_ADAPTERS = 256

_LATENCY_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)


class Metrics:
    """What one server counts.

    Attributes:
        ttft_s: time from admission to the first token of each choice.
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
            "motet_time_to_first_token_seconds", "From admission to a choice's first token."
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
        self._engine = _EngineCollector()
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


class _EngineCollector:
    """The engine's own figures, as of one snapshot. Old label sets do not linger."""

    def __init__(self) -> None:
        self._metrics: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        return self._metrics

    def update(
        self,
        stats: EngineStats | None,
        num_adapters: int,
        names_of: Callable[[str], Sequence[str]],
    ) -> None:
        if stats is None:
            self._metrics = []
            return
        num_used = stats.num_pages_total - stats.num_pages_free - stats.num_pages_cached
        lora = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Adapters with running and with waiting requests; the value is the Unix time. The "
            "name and labels are those that Kubernetes gateways route by. max_lora is the number "
            "of loaded adapters, for there is no limit on how many run together.",
            labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        lora.add_metric(
            [
                str(max(1, num_adapters)),
                _joined_names(stats.running_adapters, names_of),
                _joined_names(stats.waiting_adapters, names_of),
            ],
            time.time(),
        )
        self._metrics = [
            lora,
            _gauge("motet_pages_total", "Pages of the pool.", stats.num_pages_total),
            _gauge("motet_pages_free", "Pages that hold nothing.", stats.num_pages_free),
            _gauge(
                "motet_pages_cached",
                "Pages that hold what no request uses; free for the taking.",
                stats.num_pages_cached,
            ),
            _gauge("motet_pages_kv", "Pages of running requests' KV.", stats.num_pages_kv),
            _gauge(
                "motet_pages_adapters",
                "Pages of adapters that requests use.",
                stats.num_pages_adapters_in_use,
            ),
            _gauge(
                "motet_pages_usage_ratio",
                "Share of the pool that running requests hold (KV and adapters), 0 to 1.",
                num_used / max(1, stats.num_pages_total),
            ),
            _gauge("motet_running_requests", "Sequences in the batch.", stats.num_running),
            _gauge("motet_waiting_requests", "Sequences in the queue.", stats.num_waiting),
            _gauge("motet_adapters_loaded", "Adapter names that requests may use.", num_adapters),
            _gauge(
                "motet_adapters_resident",
                "Adapters in the pool.",
                len(stats.resident_adapters),
            ),
            _counter("motet_engine_preemptions", "Preempted sequences.", stats.num_preemptions),
            _counter("motet_engine_steps", "Steps of the engine.", stats.num_steps),
            _counter(
                "motet_engine_prompt_tokens", "Computed prompt tokens.", stats.num_prompt_tokens
            ),
            _counter("motet_engine_output_tokens", "Sampled tokens.", stats.num_output_tokens),
            _counter(
                "motet_adapter_loads", "Adapters paged into the pool.", stats.num_adapter_loads
            ),
            _counter(
                "motet_adapter_evictions",
                "Adapters evicted from the pool.",
                stats.num_adapter_evictions,
            ),
        ]


def _joined_names(digests: Sequence[str], names_of: Callable[[str], Sequence[str]]) -> str:
    names = [name for digest in digests for name in names_of(digest)]
    return ",".join(names[:_MAX_LISTED_ADAPTERS])


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_text, value=value)
