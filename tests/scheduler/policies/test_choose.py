"""Policies by name, and how they are joined."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.core.errors import ConfigError
from motet.scheduler.policies.choose import ON_TOP, ORDERS, PolicyOptions, make_policy
from motet.scheduler.policies.cluster import Cluster
from motet.scheduler.policies.fair import Fair
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policies.size_aware import SizeAware
from motet.scheduler.policies.slo import Slo
from motet.scheduler.policy import Policy, QueuedRequest

OPTIONS = PolicyOptions(ttft_slo_s=6.0, num_cluster_adapters=2)
NAMES = [*ORDERS, *ON_TOP]


def make(spec: str) -> Policy:
    return make_policy(spec, OPTIONS)()


def request(arrival: int, **changes: object) -> QueuedRequest:
    return QueuedRequest(request_id=str(arrival), arrival=arrival, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("fcfs", Fcfs),
        ("fair", Fair),
        ("size_aware", SizeAware),
        ("cluster", Cluster),
        ("slo", Slo),
        ("fair+cluster", Cluster),
        ("cluster+fair", Cluster),
        ("slo+cluster+size_aware", Slo),
    ],
)
def test_a_name_makes_its_policy_anew_each_time(spec: str, kind: type[Policy]) -> None:
    factory = make_policy(spec, OPTIONS)
    first, second = factory(), factory()
    assert type(first) is type(second) is kind
    assert first is not second


@pytest.mark.parametrize("spec", ["fair", "fair+slo", "fair+cluster", "slo+cluster+fair"])
def test_whatever_goes_over_it_an_order_decides(spec: str) -> None:
    policy = make(spec)
    for index in range(4):
        policy.add(request(index, tenant="many"))
    policy.add(request(9, tenant="few"))
    tenants = []
    for _ in range(2):
        called = policy.next(())
        assert called is not None
        policy.call(called)
        tenants.append(called.tenant)
    assert tenants == ["many", "few"]


def test_priorities_share_what_has_been_counted() -> None:
    factory = make_policy("fair", OPTIONS)
    urgent, plain = factory(), factory()
    plain.add(request(1, tenant="b", priority=1))
    for index in range(2):
        urgent.add(request(2 + index, tenant="a"))
        called = urgent.next(())
        assert called is not None
        urgent.call(called)
    plain.add(request(0, tenant="a", priority=1))
    called = plain.next(())
    assert called is not None
    assert called.tenant == "b"


def overload(policy: Policy) -> QueuedRequest:
    """Three arrive for each that starts, for a minute; who is next then."""
    for index in range(120):
        now_s = index * 0.5
        for number in range(3):
            policy.add(request(3 * index + number, queued_s=now_s))
        for refusal in policy.refusals(now_s):
            policy.remove(refusal.request)
        called = policy.next(())
        assert called is not None
        policy.call(called)
        policy.start(called, now_s)
        policy.count_output(called, 1, now_s)
        policy.end(called)
    after = policy.next(())
    assert after is not None
    return after


def test_when_overloaded_only_first_come_first_served_turns_to_the_newest() -> None:
    assert overload(make("slo")).arrival > 350
    assert overload(make("fcfs+slo")).arrival > 350
    assert overload(make("fair+slo")).arrival < 350
    assert overload(make("cluster+slo")).arrival < 350


@pytest.mark.parametrize("spec", ["", "fifo", "fcfs+", "fair + slo", "FCFS", "fair,slo", "+"])
def test_an_unknown_name_is_refused_with_those_there_are(spec: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make(spec)
    assert raised.value.param == "policy"
    assert all(name in raised.value.message for name in NAMES)


@pytest.mark.parametrize("pair", [*permutations(ORDERS, 2)])
def test_two_orders_cannot_be_joined(pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as raised:
        make("+".join(pair))
    assert "cannot be joined" in raised.value.message
    assert all(name in raised.value.message for name in pair)


@pytest.mark.parametrize("name", NAMES)
def test_none_is_named_twice(name: str) -> None:
    with pytest.raises(ConfigError, match="twice"):
        make(f"{name}+{name}")


@pytest.mark.parametrize("slo_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_slo_has_to_be_some_time(slo_s: float) -> None:
    with pytest.raises(ConfigError) as raised:
        make_policy("slo", PolicyOptions(ttft_slo_s=slo_s, num_cluster_adapters=8))
    assert raised.value.param == "ttft_slo_s"


def test_a_cluster_has_to_have_an_adapter() -> None:
    with pytest.raises(ConfigError) as raised:
        make_policy("cluster", PolicyOptions(ttft_slo_s=6.0, num_cluster_adapters=0))
    assert raised.value.param == "num_cluster_adapters"


@given(spec=st.text("+ ") | st.lists(st.sampled_from([*NAMES, "x", ""]), max_size=4).map("+".join))
def test_whatever_is_asked_for_it_is_made_or_refused(spec: str) -> None:
    try:
        policy = make(spec)
    except ConfigError:
        return
    policy.add(request(0))
    called = policy.next(())
    assert called is not None
    assert called.arrival == 0
