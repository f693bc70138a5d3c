"""What a server tells of itself while a run goes on, from its Prometheus metrics.

Owns: the names of the metrics, Motet's and vLLM's, and how often they are asked for.
Does not know: requests.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from motet.bench.record import Sample
from motet.bench.target import Target, authorization

_RUNNING = ("motet_running_requests", "vllm:num_requests_running")
_WAITING = ("motet_waiting_requests", "vllm:num_requests_waiting")
_RESIDENT = "motet_adapters_resident"
_PAGES = "motet_pages_total"
_KV_PAGES = "motet_pages_kv"
_ADAPTER_PAGES = "motet_pages_adapters"
_CACHED_PAGES = "motet_pages_cached"
_FREE_PAGES = "motet_pages_free"
# vLLM has no pool beside that of its KV cache. The second is the older name.
_KV_USE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")

_NAMES = frozenset(
    (
        *(*_RUNNING, *_WAITING, *_KV_USE),
        *(_RESIDENT, _PAGES, _KV_PAGES, _ADAPTER_PAGES, _CACHED_PAGES, _FREE_PAGES),
    )
)

_TIMEOUT_S = 5.0
_MAX_BYTES = 16 << 20


class Watch:
    """Asks for metrics once in a while, until the server turns out to have none.

    Args:
        now_s: seconds from the start of the run.

    Attributes:
        samples: what it told, in the order of time.
        problem: why there are no more of them; None if there is no reason.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        target: Target,
        now_s: Callable[[], float],
        interval_s: float,
    ) -> None:
        self.samples: list[Sample] = []
        self.problem: str | None = None
        self._http = http
        self._url = target.root + "/metrics"
        key = target.api_key if target.metrics_key is None else target.metrics_key
        self._headers = authorization(key)
        self._now_s = now_s
        self._interval_s = interval_s

    async def follow(self) -> None:
        """Take samples until it is cancelled, or until there are none to be had."""
        while self.problem is None:
            try:
                text = await asyncio.wait_for(self._text(), _TIMEOUT_S)
            except Exception:
                # It may be too busy to answer this time. Not all that can go wrong is httpx2's, and
                # nothing is worth the end of the run.
                text = ""
            # Thousands of lines: adapters have some each.
            if text and (values := await asyncio.to_thread(read_metrics, text)):
                self.samples.append(sample_of(values, self._now_s()))
            await asyncio.sleep(self._interval_s)

    async def _text(self) -> str:
        """The metrics; empty, with the reason in `problem`, if they are not to be had."""
        content = b""
        async with self._http.stream("GET", self._url, headers=self._headers) as response:
            if response.status_code != httpx2.codes.OK:
                self.problem = f"/metrics answered {response.status_code}"
                return ""
            async for part in response.aiter_raw():
                content += part
                if len(content) > _MAX_BYTES:
                    self.problem = f"/metrics answered more than {_MAX_BYTES >> 20} MiB"
                    return ""
        return content.decode(errors="replace")


def read_metrics(text: str) -> dict[str, float]:
    """Those metrics that samples are made of, each summed over its labels.

    What cannot be read is left out.
    """
    lines = [line for line in text.splitlines() if _name(line) in _NAMES]
    values: dict[str, float] = {}
    for line in lines:
        try:
            families = list(text_string_to_metric_families(line + "\n"))
        except ValueError:
            continue
        for sample in (sample for family in families for sample in family.samples):
            if math.isfinite(sample.value):
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


def sample_of(values: Mapping[str, float], at_s: float) -> Sample:
    """A sample, with Motet's own figures before those under vLLM's names."""
    num_pages = values.get(_PAGES)

    def share(name: str) -> float | None:
        return values[name] / num_pages if num_pages and name in values else None

    return Sample(
        at_s=at_s,
        num_running=_first(values, _RUNNING),
        num_waiting=_first(values, _WAITING),
        num_resident_adapters=values.get(_RESIDENT),
        kv_share=share(_KV_PAGES) if num_pages else _first(values, _KV_USE),
        adapter_share=share(_ADAPTER_PAGES),
        cached_share=share(_CACHED_PAGES),
        free_share=share(_FREE_PAGES),
    )


def _name(line: str) -> str:
    return line.split("{", 1)[0].split(" ", 1)[0]


def _first(values: Mapping[str, float], names: Iterable[str]) -> float | None:
    return next((values[name] for name in names if name in values), None)
