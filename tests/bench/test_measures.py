"""The measures of small runs done by hand, and bounds on those of any run."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.bench.distribution import Distribution
from motet.bench.measures import Summary, is_first_of_adapter, summarise
from motet.bench.record import RequestRecord, Sample, Slo
from tests.bench.runs import made_up_run, record, refused, run_of


def spread(values_s: Distribution | None) -> Distribution:
    assert values_s is not None
    return values_s


def test_counts_and_rates() -> None:
    summary = summarise(
        run_of(
            [
                record(0, ended_s=4.0, num_output_tokens=10, num_cached_tokens=4),
                record(1, ended_s=2.0, num_output_tokens=30),
                refused(2),
                refused(3, status=429, retry_after_s=None),
                record(4, status=500, error="internal", piece_times_s=(), ended_s=8.0),
                record(5, error="stream broke", ended_s=5.0, num_output_tokens=99),
            ]
        )
    )
    assert (summary.num_asked, summary.num_finished) == (6, 2)
    assert (summary.num_refused, summary.num_failed) == (2, 2)
    assert summary.errors == {"internal": 1, "stream broke": 1}
    assert summary.end_s == 8.0
    assert summary.finished_per_s == 2 / 8
    assert summary.output_tokens_per_s == 40 / 8
    assert (summary.num_prompt_tokens, summary.num_cached_tokens) == (16, 4)


def test_latencies_of_finished_requests() -> None:
    summary = summarise(
        run_of(
            [
                record(0, sent_s=1, piece_times_s=[2, 3, 6], ended_s=6, num_output_tokens=5),
                record(1, sent_s=1, piece_times_s=[4], ended_s=4, num_output_tokens=1),
                record(2, sent_s=1, piece_times_s=[99, 199], ended_s=200, error="broke"),
            ]
        )
    )
    assert spread(summary.ttft_s).p50 == 2.0
    assert spread(summary.ttft_s).p90 == pytest.approx(2.8)
    assert (spread(summary.itl_s).count, spread(summary.itl_s).mean) == (2, 2.0)
    assert spread(summary.itl_s).max == 3.0
    assert (spread(summary.tpot_s).count, spread(summary.tpot_s).mean) == (1, 1.0)
    assert spread(summary.latency_s).mean == 4.0
    assert spread(summary.latency_per_token_s).mean == pytest.approx((5 / 5 + 3 / 1) / 2)


def test_slo_counts_what_did_not_finish_as_not_kept() -> None:
    requests = [
        record(0, piece_times_s=[3.0], ended_s=10.0),
        record(1, piece_times_s=[5.999], ended_s=10.0),
        record(2, piece_times_s=[6.0], ended_s=10.0),  # late, as in S-LoRA's evaluation
        record(3, piece_times_s=[0.1], ended_s=10.0, error="broke"),
        refused(4),
    ]
    summary = summarise(run_of(requests))
    assert summary.attainment == 2 / 5
    assert summary.goodput_per_s == 2 / 10
    expected = ((1 - 0.25) + (1 - (5.999 / 6) ** 2)) / 5
    assert summary.satisfaction == pytest.approx(expected)


def test_slo_of_later_tokens() -> None:
    requests = [
        record(0, piece_times_s=[1.0, 1.4], num_output_tokens=5),
        record(1, piece_times_s=[1.0, 1.5], num_output_tokens=5),
        record(2, piece_times_s=[1.0], num_output_tokens=1),
    ]
    assert summarise(run_of(requests, slo=Slo(ttft_s=2, itl_s=0.11))).attainment == 2 / 3
    assert summarise(run_of(requests, slo=Slo(ttft_s=1, itl_s=9))).attainment == 0


@pytest.mark.parametrize("slo", [Slo(ttft_s=0), Slo(itl_s=-1), Slo(ttft_s=float("nan"))])
def test_an_slo_that_is_no_time_is_refused(slo: Slo) -> None:
    with pytest.raises(ValueError, match="above 0 s"):
        summarise(run_of([], slo=slo))


def test_stripped_throughput() -> None:
    # 61 requests, sent each second until 60 s, all finished until 80 s.
    requests = [record(index, sent_s=index, ended_s=index + 20) for index in range(61)]
    summary = summarise(run_of(requests))
    assert summary.stripped_per_s == pytest.approx((61 - 20 * 61 / 60) / (80 - 20))
    assert summarise(run_of(requests, is_open_loop=False)).stripped_per_s is None
    assert summarise(run_of(requests[:20])).stripped_per_s is None
    unanswered = [refused(index, sent_s=index, ended_s=index) for index in range(61)]
    assert summarise(run_of(unanswered)).stripped_per_s is None


def test_fairness_counts_what_came_in_time() -> None:
    flood = [record(index, adapter="flood", tenant="x") for index in range(8)]
    polite = [record(index, adapter="polite", tenant="y", error="broke") for index in (8, 9)]
    summary = summarise(run_of([*flood[:6], refused(7, adapter="flood", tenant="x"), *polite]))
    # 6 in time; a fair division gives "polite" its 2 and "flood" 4: 6/4 and 0/2 of these.
    assert summary.adapter_fairness == pytest.approx(1 / 2)
    assert summary.tenant_fairness == pytest.approx(1 / 2)
    assert summarise(run_of(flood)).adapter_fairness is None
    assert summarise(run_of(polite)).adapter_fairness is None


def test_cold_starts_are_first_requests_by_sending() -> None:
    requests = [
        record(0, adapter="a", sent_s=5, piece_times_s=[6], ended_s=6),
        record(1, adapter="a", sent_s=1, piece_times_s=[5], ended_s=5),
        record(2, adapter="b", sent_s=0, error="broke"),
        record(3, adapter="b", sent_s=2, piece_times_s=[5], ended_s=5),
        record(4, adapter=None, sent_s=0, piece_times_s=[9], ended_s=9),
    ]
    assert is_first_of_adapter(requests).tolist() == [False, True, False, True, False]
    summary = summarise(run_of(requests))
    assert (spread(summary.first_ttft_s).count, spread(summary.first_ttft_s).mean) == (2, 3.5)
    assert (spread(summary.later_ttft_s).count, spread(summary.later_ttft_s).mean) == (1, 1.0)


def test_groups_are_the_largest_and_the_rest() -> None:
    names = [f"a{rank:02d}" for rank in range(13) for _ in range(20 - rank)]
    requests = [record(index, adapter=name) for index, name in enumerate(names)]
    requests += [record(len(names) + more, adapter=None) for more in range(50)]
    summary = summarise(run_of(requests))
    assert [row.kind for row in summary.by_adapter] == ["unnamed", *["named"] * 9, "rest"]
    assert [row.name for row in summary.by_adapter[1:10]] == [f"a{rank:02d}" for rank in range(9)]
    rest = summary.by_adapter[-1]
    assert (rest.num_members, rest.num_asked) == (4, 11 + 10 + 9 + 8)
    assert sum(row.num_asked for row in summary.by_adapter) == len(requests)
    assert summary.by_tenant == []


def test_rows_of_tenants() -> None:
    summary = summarise(
        run_of([record(0, tenant="x"), refused(1, tenant="x"), record(2), record(3, tenant="x")])
    )
    x, nobody = summary.by_tenant
    assert (x.name, x.num_finished, x.num_refused, x.num_failed) == ("x", 2, 1, 0)
    assert (x.attainment, x.num_output_tokens) == (2 / 3, 4)
    assert (nobody.kind, nobody.name, nobody.num_asked) == ("unnamed", None, 1)


def test_what_the_server_told() -> None:
    samples = [Sample(at_s=0, num_waiting=3), Sample(at_s=1, num_running=4), Sample(at_s=2)]
    summary = summarise(run_of([], samples))
    assert (summary.peak_waiting, summary.mean_running) == (3, 4)
    assert summary.mean_resident_adapters is None


def test_an_empty_run_has_no_shares_and_no_rates() -> None:
    summary = summarise(run_of([]))
    assert summary.num_asked == summary.num_finished == summary.end_s == 0
    values = msgspec.structs.asdict(summary)
    assert [name for name, value in values.items() if value not in (0, None, {}, [])] == []


def test_a_summary_is_plain_json() -> None:
    summary = summarise(made_up_run(num_requests=100))
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) is not None


records = st.builds(
    RequestRecord,
    index=st.integers(0, 9),
    adapter=st.sampled_from(["a", "b", "c", None]),
    model=st.just("m"),
    tenant=st.sampled_from(["x", "y", None]),
    sent_s=st.floats(0, 100),
    piece_times_s=st.lists(st.floats(100, 200), max_size=4).map(sorted),
    ended_s=st.floats(200, 300),
    num_output_tokens=st.integers(0, 5),
    status=st.sampled_from([200, 429, 503, 500, None]),
    error=st.sampled_from([None, None, "broke"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(records, max_size=30), st.floats(0.1, 300))
def test_bounds_of_any_run(requests: list[RequestRecord], slo_s: float) -> None:
    summary = summarise(run_of(requests, slo=Slo(ttft_s=slo_s)))
    total = summary.num_finished + summary.num_refused + summary.num_failed
    assert total == summary.num_asked == len(requests)
    if not requests:
        assert summary.attainment is None
        return
    assert summary.attainment is not None
    assert summary.satisfaction is not None
    assert 0 <= summary.satisfaction <= summary.attainment <= 1
    for index, count in ((summary.adapter_fairness, 4), (summary.tenant_fairness, 3)):
        assert index is None or 1 / count * 0.999 <= index <= 1.001
    if summary.ttft_s:
        assert summary.ttft_s.p50 <= summary.ttft_s.p90 <= summary.ttft_s.p99 <= summary.ttft_s.max
