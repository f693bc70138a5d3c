"""The engine's figures as Prometheus metrics, made anew from each snapshot.

Owns: the names and help texts of these metrics.
Does not know: how a snapshot is had, nor what the API process counts itself (`metrics.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from motet.core.messages import EngineStats

# Adapter names in one label of lora_requests_info.
_MAX_LISTED_ADAPTERS = 256

_Row = tuple[str, str, Callable[[EngineStats], float]]

_GAUGES: tuple[_Row, ...] = (
    ("motet_pages_total", "Pages of the pool.", lambda s: s.num_pages_total),
    ("motet_pages_free", "Pages that hold nothing.", lambda s: s.num_pages_free),
    (
        "motet_pages_cached",
        "Pages that hold what no request uses; free for the taking.",
        lambda s: s.num_pages_cached,
    ),
    (
        "motet_pages_cached_prefix",
        "Of the cached pages, those of cached prefixes.",
        lambda s: s.num_pages_cached_prefix,
    ),
    ("motet_pages_kv", "Pages of running requests' KV.", lambda s: s.num_pages_kv),
    (
        "motet_pages_adapters",
        "Pages of adapters that requests use, that are being copied, or that are pinned.",
        lambda s: s.num_pages_adapters_in_use,
    ),
    (
        "motet_pages_pinned",
        "Of the adapters' pages, those of pinned ones.",
        lambda s: s.num_pages_pinned,
    ),
    (
        "motet_pages_usage_ratio",
        "Share of the pool that running requests and pins hold (KV and adapters), 0 to 1.",
        lambda s: (
            (s.num_pages_total - s.num_pages_free - s.num_pages_cached) / max(1, s.num_pages_total)
        ),
    ),
    (
        "motet_adapter_fill_ratio",
        "How full the pages of resident adapters are, 0 to 1.",
        lambda s: s.adapter_fill,
    ),
    (
        "motet_kv_fill_ratio",
        "How full the KV pages of running requests are, 0 to 1.",
        lambda s: s.kv_fill,
    ),
    ("motet_running_requests", "Sequences in the batch.", lambda s: s.num_running),
    ("motet_waiting_requests", "Sequences in the queue.", lambda s: s.num_waiting),
    (
        "motet_adapters_known",
        "Adapters that have been read, wherever they are now.",
        lambda s: s.num_adapters_known,
    ),
    (
        "motet_adapters_on_host",
        "Adapters with a copy in host memory.",
        lambda s: s.num_adapters_on_host,
    ),
    ("motet_adapters_resident", "Adapters in the pool.", lambda s: len(s.resident_adapters)),
    (
        "motet_host_adapter_bytes",
        "Host memory of adapters' copies.",
        lambda s: s.host_bytes_used,
    ),
    (
        "motet_host_adapter_budget_bytes",
        "Host memory that adapters' copies may take.",
        lambda s: s.host_bytes_budget,
    ),
)

_COUNTERS: tuple[_Row, ...] = (
    ("motet_engine_preemptions", "Preempted sequences.", lambda s: s.num_preemptions),
    ("motet_engine_steps", "Steps of the engine.", lambda s: s.num_steps),
    ("motet_engine_prompt_tokens", "Computed prompt tokens.", lambda s: s.num_prompt_tokens),
    ("motet_engine_output_tokens", "Sampled tokens.", lambda s: s.num_output_tokens),
    (
        "motet_prefix_lookup_tokens",
        "Prompt tokens of admitted requests, looked up in the prefix cache.",
        lambda s: s.num_prefix_lookup_tokens,
    ),
    (
        "motet_prefix_hit_tokens",
        "Prompt tokens that the prefix cache had.",
        lambda s: s.num_prefix_hit_tokens,
    ),
    (
        "motet_prefix_evictions",
        "Pages of cached prefixes that were evicted.",
        lambda s: s.num_prefix_evictions,
    ),
    (
        "motet_adapter_hits",
        "Queued requests whose adapter was on the device.",
        lambda s: s.num_adapter_hits,
    ),
    (
        "motet_adapter_misses",
        "Queued requests whose adapter was not on the device.",
        lambda s: s.num_adapter_misses,
    ),
    (
        "motet_adapter_reads",
        "Adapters read from disk into host memory.",
        lambda s: s.num_adapter_reads,
    ),
    (
        "motet_adapter_read_failures",
        "Reads of adapters that failed.",
        lambda s: s.num_adapter_read_failures,
    ),
    (
        "motet_adapter_read_seconds",
        "Time spent reading adapters from disk.",
        lambda s: s.adapter_read_s,
    ),
    ("motet_adapter_loads", "Adapters paged into the pool.", lambda s: s.num_adapter_loads),
    (
        "motet_adapter_load_seconds",
        "Time spent paging adapters into the pool.",
        lambda s: s.adapter_load_s,
    ),
    (
        "motet_adapter_evictions",
        "Adapters evicted from the pool.",
        lambda s: s.num_adapter_evictions,
    ),
    (
        "motet_host_evictions",
        "Adapters evicted from host memory.",
        lambda s: s.num_host_evictions,
    ),
)


class EngineCollector:
    """The engine's own figures, as of one snapshot. Old label sets do not linger."""

    def __init__(self) -> None:
        self._metrics: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        """The metrics of the last snapshot; none if there was none."""
        return self._metrics

    def update(
        self,
        stats: EngineStats | None,
        num_adapters: int,
        names_of: Callable[[str], Sequence[str]],
    ) -> None:
        """Take a snapshot, or None where there is none.

        Args:
            num_adapters: adapter names that requests may use.
            names_of: the names that mean a digest.
        """
        if stats is None:
            self._metrics = []
            return
        names = "Adapter names that requests may use."
        self._metrics = [
            _lora_requests_info(stats, num_adapters, names_of),
            GaugeMetricFamily("motet_adapters_loaded", names, value=num_adapters),
            *(GaugeMetricFamily(name, text, value=of(stats)) for name, text, of in _GAUGES),
            *(CounterMetricFamily(name, text, value=of(stats)) for name, text, of in _COUNTERS),
        ]


def _lora_requests_info(
    stats: EngineStats, num_adapters: int, names_of: Callable[[str], Sequence[str]]
) -> Metric:
    metric = GaugeMetricFamily(
        "vllm:lora_requests_info",
        "Adapters with running and with waiting requests; the value is the Unix time. The name "
        "and labels are those that Kubernetes gateways route by. max_lora is the number of "
        "adapter names, for there is no limit on how many run together.",
        labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
    )
    metric.add_metric(
        [
            str(max(1, num_adapters)),
            _joined_names(stats.running_adapters, names_of),
            _joined_names(stats.waiting_adapters, names_of),
        ],
        time.time(),
    )
    return metric


def _joined_names(digests: Sequence[str], names_of: Callable[[str], Sequence[str]]) -> str:
    names = [name for digest in digests for name in names_of(digest)]
    return ",".join(names[:_MAX_LISTED_ADAPTERS])
