"""What a run comes to: rates, latencies, the SLO, fairness, cold starts.

Owns: the measures and their definitions.
Does not know: how they are shown.

Sources: throughput, attainment and user satisfaction are those of S-LoRA's evaluation
(arXiv 2311.03285, section 7.1, and its `metric.py`); fairness is Jain's index (`fairness.py`).
"""

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from motet.bench.columns import Bools, Columns, columns_of, gaps_s
from motet.bench.distribution import Distribution, distribution_of
from motet.bench.groups import GroupRow, groups_of
from motet.bench.record import RequestRecord, Run, Sample

SUMMARY_FILE = "summary.json"

NUM_GROUP_ROWS = 10
NUM_ERROR_KINDS = 8
MAX_ERROR_CHARS = 200

# S-LoRA leaves 20 s out of its stripped throughput, so that a start and a drain weigh less.
STRIPPED_S = 20.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The measures of a run. None is what cannot be told: a share of nothing, a rate over no time.

    Attributes:
        num_asked: all requests; the next three are what became of them.
        num_refused: the server said that it has no room (429, 503).
        errors: how often each error came, of requests that failed; the most frequent ones.
        end_s: from the start of the run until the last request had ended.
        finished_per_s: finished requests over `end_s`, so that the drain counts.
        stripped_per_s: S-LoRA's `strip_throughput`, (finished - 20 R) / (`end_s` - 20), with R the
            rate at which requests were sent. None in a closed loop, or if 20 s is not less than
            both the time of sending and what finished in it.
        output_tokens_per_s: of finished requests, over `end_s`.
        ttft_s, latency_s: from sending to the first token, and to the end.
        tpot_s: of each request, the mean time of each token after the first.
        itl_s: the gaps between pieces of all answers.
        latency_per_token_s: of each request, `latency_s` over its output tokens.
        attainment: the share of all requests that finished within the SLO.
        goodput_per_s: those over `end_s`.
        satisfaction: the mean of max(0, 1 - (ttft / SLO)²), with 0 for what did not finish.
        adapter_fairness, tenant_fairness: Jain's index over what each adapter (or tenant) got of
            its max-min fair share, counted in requests within the SLO. The base model counts as an
            adapter, requests without a tenant as one tenant. Many groups of few requests each bring
            it down to about the attainment, since a single request is served in time or it is not.
        first_ttft_s, later_ttft_s: of each adapter's first request to finish, by when it was sent,
            and of all its later ones. The first may have found its adapter loaded, by an earlier
            run.
        by_adapter, by_tenant: the groups with the most requests, and all others in one row.
            No tenants: empty.
        peak_waiting, mean_running, mean_resident_adapters: as the server told them.

    Latencies are of finished requests alone.
    """

    num_asked: int
    num_finished: int
    num_refused: int
    num_failed: int
    errors: dict[str, int]
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    end_s: float
    finished_per_s: float | None
    stripped_per_s: float | None
    output_tokens_per_s: float | None
    ttft_s: Distribution | None
    itl_s: Distribution | None
    tpot_s: Distribution | None
    latency_s: Distribution | None
    latency_per_token_s: Distribution | None
    attainment: float | None
    goodput_per_s: float | None
    satisfaction: float | None
    adapter_fairness: float | None
    tenant_fairness: float | None
    first_ttft_s: Distribution | None
    later_ttft_s: Distribution | None
    by_adapter: Sequence[GroupRow]
    by_tenant: Sequence[GroupRow]
    peak_waiting: float | None
    mean_running: float | None
    mean_resident_adapters: float | None


def summarise(run: Run) -> Summary:
    """The measures of a run.

    Raises:
        ValueError: the run's SLO promises a time that is not positive.
    """
    columns = columns_of(run.requests, run.info.slo)
    finished = [each for each in run.requests if each.is_finished]
    is_finished, end_s = columns.is_finished, columns.end_s
    num_refused = int(columns.is_refused.sum())
    num_output_tokens = sum(each.num_output_tokens for each in finished)
    is_first = is_first_of_adapter(run.requests)
    adapters = groups_of([each.adapter for each in run.requests])
    tenants = groups_of([each.tenant for each in run.requests])
    return Summary(
        num_asked=len(run.requests),
        num_finished=len(finished),
        num_refused=num_refused,
        num_failed=len(run.requests) - len(finished) - num_refused,
        errors=_errors(run.requests, columns),
        num_prompt_tokens=sum(each.num_prompt_tokens for each in finished),
        num_cached_tokens=sum(each.num_cached_tokens for each in finished),
        num_output_tokens=num_output_tokens,
        end_s=end_s,
        finished_per_s=_rate(len(finished), end_s),
        stripped_per_s=_stripped_per_s(columns) if run.info.is_open_loop else None,
        output_tokens_per_s=_rate(num_output_tokens, end_s),
        ttft_s=distribution_of(columns.ttft_s[is_finished]),
        itl_s=distribution_of(gaps_s(run.requests)),
        tpot_s=distribution_of(columns.tpot_s[is_finished]),
        latency_s=distribution_of(columns.latency_s[is_finished]),
        latency_per_token_s=_latency_per_token_s(columns),
        attainment=_mean(columns.is_in_time),
        goodput_per_s=_rate(int(columns.is_in_time.sum()), end_s),
        satisfaction=_satisfaction(columns, run.info.slo.ttft_s),
        adapter_fairness=adapters.fairness(columns),
        tenant_fairness=tenants.fairness(columns),
        first_ttft_s=distribution_of(columns.ttft_s[is_first]),
        later_ttft_s=distribution_of(columns.ttft_s[is_later_of_adapter(run.requests)]),
        by_adapter=adapters.largest(NUM_GROUP_ROWS, columns),
        by_tenant=tenants.largest(NUM_GROUP_ROWS, columns) if set(tenants.members) - {None} else [],
        peak_waiting=max(told(run.samples, "num_waiting"), default=None),
        mean_running=_mean(told(run.samples, "num_running")),
        mean_resident_adapters=_mean(told(run.samples, "num_resident_adapters")),
    )


def is_first_of_adapter(requests: Sequence[RequestRecord]) -> Bools:
    """Which request of each adapter was the first to be sent, of those that finished.

    The base model needs no adapter, so none of its requests counts.
    """
    is_first = np.zeros(len(requests), dtype=bool)
    seen = set()
    for position in sorted(range(len(requests)), key=lambda index: requests[index].sent_s):
        request = requests[position]
        if request.is_finished and request.adapter is not None and request.adapter not in seen:
            seen.add(request.adapter)
            is_first[position] = True
    return is_first


def is_later_of_adapter(requests: Sequence[RequestRecord]) -> Bools:
    """Which requests of an adapter finished and were not its first."""
    asks = [each.is_finished and each.adapter is not None for each in requests]
    return np.array(asks, dtype=bool) & ~is_first_of_adapter(requests)


def told(samples: Sequence[Sample], field: str) -> list[float]:
    """All values of a field that the server told."""
    values = (getattr(sample, field) for sample in samples)
    return [value for value in values if value is not None]


def _errors(requests: Sequence[RequestRecord], columns: Columns) -> dict[str, int]:
    counts = Counter(
        request.error[:MAX_ERROR_CHARS]
        for request, is_refused in zip(requests, columns.is_refused, strict=True)
        if request.error is not None and not is_refused
    )
    return dict(counts.most_common(NUM_ERROR_KINDS))


def _rate(count: int, time_s: float) -> float | None:
    return count / time_s if time_s > 0 else None


def _mean(values: Sequence[float] | Bools) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _stripped_per_s(columns: Columns) -> float | None:
    sending_s = float(columns.sent_s.max(initial=0.0))
    if sending_s <= STRIPPED_S:
        return None
    num_stripped = STRIPPED_S * columns.num_requests / sending_s
    num_finished = int(columns.is_finished.sum())
    if num_finished <= num_stripped:
        return None
    return (num_finished - num_stripped) / (columns.end_s - STRIPPED_S)


def _latency_per_token_s(columns: Columns) -> Distribution | None:
    has_tokens = columns.is_finished & (columns.num_output_tokens > 0)
    return distribution_of(columns.latency_s[has_tokens] / columns.num_output_tokens[has_tokens])


def _satisfaction(columns: Columns, slo_s: float) -> float | None:
    if not columns.num_requests:
        return None
    ratios = columns.ttft_s / slo_s
    of_each = np.where(
        columns.is_finished & ~np.isnan(ratios), np.maximum(0, 1 - np.square(ratios)), 0.0
    )
    return float(of_each.mean())
