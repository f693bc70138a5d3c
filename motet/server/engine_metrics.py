"""The engine's figures as Prometheus metrics, made anew from each snapshot.

Owns: the names and help texts of these metrics, also those that carry vLLM's names.
Does not know: how a snapshot is had, nor what the API process counts itself (`metrics.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

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
        lambda s: _usage_ratio(s),
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
    (
        "motet_engine_refusals",
        "Sequences that the scheduling policy gave up before they ran.",
        lambda s: s.num_refusals,
    ),
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


# Those by which the Kubernetes Gateway API Inference Extension chooses a server, and the dashboards
# that were made for vLLM.
_VLLM_GAUGES: tuple[_Row, ...] = (
    ("vllm:num_requests_running", "As motet_running_requests.", lambda s: s.num_running),
    ("vllm:num_requests_waiting", "As motet_waiting_requests.", lambda s: s.num_waiting),
    ("vllm:kv_cache_usage_perc", "As motet_pages_usage_ratio.", lambda s: _usage_ratio(s)),
    (
        "vllm:gpu_cache_usage_perc",
        "As motet_pages_usage_ratio; the older name.",
        lambda s: _usage_ratio(s),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A server at one moment.

    Attributes:
        stats: the engine's figures; None while there are none.
        is_ready: whether the engine takes requests.
        engine_pid: its process; None while there is none.
        num_engine_starts: engine processes that were started, the first included.
        model_name: the base model's name.
        page_size: KV tokens in a page.
        num_adapters: adapter names that requests may use.
        num_queued_by_tenant: sequences that wait for their first token.
        names_of: the names that mean a digest.
    """

    stats: EngineStats | None
    is_ready: bool
    engine_pid: int | None
    num_engine_starts: int
    model_name: str
    page_size: int
    num_adapters: int
    num_queued_by_tenant: Mapping[str | None, int]
    names_of: Callable[[str], Sequence[str]]


class EngineCollector:
    """The engine's own figures, as of one snapshot. Old label sets do not linger.

    Attributes:
        pid: the engine's process, if there was one.
    """

    def __init__(self) -> None:
        self._metrics: list[Metric] = []
        self.pid: int | None = None

    def collect(self) -> Iterable[Metric]:
        """The metrics of the last snapshot; none if there was none."""
        return self._metrics

    def update(self, snapshot: Snapshot) -> None:
        """Take a snapshot. Without `stats` the engine's own figures are left out."""
        self.pid = snapshot.engine_pid
        self._metrics = _supervision(snapshot)
        if snapshot.stats is not None:
            self._metrics += _figures(snapshot, snapshot.stats)


def _supervision(snapshot: Snapshot) -> list[Metric]:
    return [
        GaugeMetricFamily(
            "motet_engine_ready",
            "1 if the engine takes requests.",
            value=1 if snapshot.is_ready else 0,
        ),
        CounterMetricFamily(
            "motet_engine_restarts",
            "Engine processes that were started after the first.",
            value=max(0, snapshot.num_engine_starts - 1),
        ),
        GaugeMetricFamily(
            "motet_adapters_loaded",
            "Adapter names that requests may use.",
            value=snapshot.num_adapters,
        ),
        GaugeMetricFamily(
            "motet_queued_sequences",
            "Sequences that wait for their first token: what --max-queued bounds.",
            value=sum(snapshot.num_queued_by_tenant.values()),
        ),
    ]


def _figures(snapshot: Snapshot, stats: EngineStats) -> list[Metric]:
    return [
        *(GaugeMetricFamily(name, text, value=of(stats)) for name, text, of in _GAUGES),
        *(CounterMetricFamily(name, text, value=of(stats)) for name, text, of in _COUNTERS),
        *(_vllm_gauge(row, snapshot.model_name, stats) for row in _VLLM_GAUGES),
        _cache_config_info(snapshot, stats),
        _lora_requests_info(snapshot, stats),
    ]


def _usage_ratio(stats: EngineStats) -> float:
    num_unused = stats.num_pages_free + stats.num_pages_cached
    return (stats.num_pages_total - num_unused) / max(1, stats.num_pages_total)


def _vllm_gauge(row: _Row, model_name: str, stats: EngineStats) -> Metric:
    name, text, of = row
    metric = GaugeMetricFamily(name, text, labels=["model_name"])
    metric.add_metric([model_name], of(stats))
    return metric


def _cache_config_info(snapshot: Snapshot, stats: EngineStats) -> Metric:
    metric = GaugeMetricFamily(
        "vllm:cache_config_info",
        "The pool's pages, for gateways that route by prefix; the value is 1.",
        labels=["block_size", "num_gpu_blocks"],
    )
    metric.add_metric([str(snapshot.page_size), str(stats.num_pages_total)], 1)
    return metric


def _lora_requests_info(snapshot: Snapshot, stats: EngineStats) -> Metric:
    metric = GaugeMetricFamily(
        "vllm:lora_requests_info",
        "Adapters that are on the device and adapters with waiting requests; the value is the Unix "
        "time. The name and labels are those that Kubernetes gateways route by. max_lora is the "
        "number of adapter names, for there is no limit on how many run together.",
        labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
    )
    # Those with running requests go before the idle ones, should there be too many.
    on_device = dict.fromkeys((*stats.running_adapters, *stats.resident_adapters))
    metric.add_metric(
        [
            str(max(1, snapshot.num_adapters)),
            _joined_names(on_device, snapshot.names_of),
            _joined_names(stats.waiting_adapters, snapshot.names_of),
        ],
        time.time(),
    )
    return metric


def _joined_names(digests: Iterable[str], names_of: Callable[[str], Sequence[str]]) -> str:
    """The names of the first digests, in an order that does not depend on theirs.

    Each text is a time series of its own, so it should change as seldom as it can.
    """
    names = dict.fromkeys(name for digest in digests for name in names_of(digest))
    return ",".join(sorted(islice(names, _MAX_LISTED_ADAPTERS)))
