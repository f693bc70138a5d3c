"""Tenants ask for what they are said to, whatever the others do."""

from msgspec.structs import replace

from motet.bench.named import make_workload
from motet.bench.workload import WorkRequest
from tests.bench.workloads import check


def of_tenant(requests: list[WorkRequest], tenant: str) -> list[WorkRequest]:
    """Without their places among the others."""
    return [replace(request, index=0) for request in requests if request.tenant == tenant]


def test_one_floods_and_one_is_polite() -> None:
    workload = make_workload("tenants", {}, 42)
    flood, polite = (of_tenant(workload.requests, name) for name in ("flood", "polite"))
    assert (len(flood), len(polite)) == (2400, 120)
    assert {request.adapter for request in polite} == {f"polite-{index}" for index in range(4)}
    assert 100 < polite[-1].arrival_s < 140


def test_a_tenant_alone_asks_for_the_very_same() -> None:
    together = make_workload("tenants", {}, 42)
    alone = make_workload("tenants", {"rates_per_s": "0,1"}, 42)
    check(alone)
    assert of_tenant(alone.requests, "polite") == of_tenant(together.requests, "polite")
    assert len(alone.requests) == 120


def test_streams_are_nobody_elses() -> None:
    requests = make_workload("tenants", {}, 42).requests
    assert len({request.stream for request in requests}) == len(requests)


def test_each_can_have_its_own_rate_length_and_weight() -> None:
    workload = make_workload(
        "tenants",
        {
            "tenants": "a,b,c",
            "rates_per_s": "1,2,4",
            "length_scales": "1,0.5,0.01",
            "weights": "1,2,3",
            "rank_cycle": "8,64",
        },
        42,
    )
    check(workload)
    a, b, c = (of_tenant(workload.requests, name) for name in "abc")
    assert (len(a), len(b), len(c)) == (120, 240, 480)
    assert max(request.num_prompt_tokens for request in a) > 400
    assert 200 < max(request.num_output_tokens for request in b) < 256
    assert max(request.num_prompt_tokens for request in c) <= 4
    assert workload.parameters["weights"] == [1, 2, 3]
    assert workload.parameters["ranks"]["b-1"] == 64


def test_one_value_is_for_all() -> None:
    workload = make_workload("tenants", {"tenants": "a,b,c", "rates_per_s": "2"}, 42)
    assert [len(of_tenant(workload.requests, name)) for name in "abc"] == [240, 240, 240]
