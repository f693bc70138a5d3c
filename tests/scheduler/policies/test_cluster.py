"""Adapter clustering: who goes first, for how long, and what it is good for."""

import random
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from motet.scheduler.policies.cluster import MAX_OVERTAKING, AdapterIndex, Cluster
from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policies.size_aware import OutputLengths, SizeAware
from motet.scheduler.policy import Policy, PolicyFactory, QueuedRequest, Refusal
from tests.scheduler.policies.lab import Device, Lab, Played, Work, num_overtaking


def _request(arrival: int, *adapters: str) -> QueuedRequest:
    return QueuedRequest(request_id=f"r{arrival}", arrival=arrival, adapters=adapters)


def _waiting(policy: Policy, *adapters: tuple[str, ...]) -> list[QueuedRequest]:
    requests = [_request(arrival, *each) for arrival, each in enumerate(adapters)]
    for request in requests:
        policy.add(request)
    return requests


def test_with_few_adapters_in_play_the_order_decides() -> None:
    policy = Cluster(Fcfs(), 2)
    cold, _ = _waiting(policy, ("cold",), ("warm",))
    assert policy.next({"warm"}) is cold


def test_with_many_the_oldest_is_next_that_needs_no_more() -> None:
    policy = Cluster(Fcfs(), 2)
    _, first, _, second = _waiting(policy, ("cold",), ("a",), ("cold",), ("b",))
    assert policy.next({"a", "b"}) is first
    policy.call(first)
    assert policy.next({"a", "b"}) is second


def test_a_request_of_the_base_model_always_fits() -> None:
    policy = Cluster(Fcfs(), 1)
    _, base, _ = _waiting(policy, ("cold",), (), ("warm",))
    assert policy.next({"warm"}) is base


def test_a_composition_fits_if_all_its_adapters_are_in_play() -> None:
    policy = Cluster(Fcfs(), 2)
    _, _, both = _waiting(policy, ("cold",), ("a", "cold"), ("b", "a"))
    assert policy.next({"a", "b"}) is both


def test_if_nobody_fits_the_order_decides() -> None:
    policy = Cluster(Fcfs(), 1)
    oldest, _ = _waiting(policy, ("x",), ("y",))
    assert policy.next({"z"}) is oldest


class _LastCome(Fcfs):
    """The youngest first."""

    def next(self, in_play: object) -> QueuedRequest | None:
        return next(reversed(self._waiting), None)


def test_what_the_order_chose_goes_before_an_older_one_if_both_fit() -> None:
    policy = Cluster(_LastCome(), 1)
    _, youngest = _waiting(policy, ("warm",), ("warm",))
    assert policy.next({"warm"}) is youngest


def test_a_cold_adapter_waits_for_a_bounded_number_of_others() -> None:
    policy = Cluster(Fcfs(), 1)
    cold = _waiting(policy, ("cold",), ("colder",))
    arrival = 2
    calls = []
    for _ in range(3 * MAX_OVERTAKING):
        policy.add(_request(arrival, "warm"))
        arrival += 1
        request = policy.next({"warm"})
        assert request is not None
        policy.call(request)
        calls.append(request)
    assert calls.index(cold[0]) == MAX_OVERTAKING
    assert calls.index(cold[1]) == 2 * MAX_OVERTAKING + 1


def test_a_call_of_the_orders_own_choice_starts_the_count_again() -> None:
    policy = Cluster(Fcfs(), 1)
    first, cold, *warm = _waiting(policy, ("warm",), ("cold",), *[("warm",)] * 40)
    policy.call(first)
    for request in warm[:MAX_OVERTAKING]:
        assert policy.next({"warm"}) is request
        policy.call(request)
    assert policy.next({"warm"}) is cold


ADAPTER_SETS = [(), ("a",), ("b",), ("c",), ("a", "b"), ("b", "a"), ("a", "c", "d"), ("d", "e")]


@given(st.data())
def test_the_index_finds_what_a_search_would(data: st.DataObject) -> None:
    index = AdapterIndex()
    waiting: list[QueuedRequest] = []
    for arrival in range(data.draw(st.integers(1, 30))):
        request = _request(arrival, *data.draw(st.sampled_from(ADAPTER_SETS)))
        index.add(request)
        waiting.append(request)
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(waiting))
            waiting.remove(gone)
            index.remove(gone)
        in_play = data.draw(st.sets(st.sampled_from("abcdex")))
        fitting = [request for request in waiting if {*request.adapters} <= in_play]
        assert index.oldest(in_play) is next(iter(fitting), None)


class _Counted(frozenset[str]):
    """Counts how often somebody looks something up in it."""

    num_lookups = 0

    def __contains__(self, digest: object) -> bool:
        self.num_lookups += 1
        return super().__contains__(digest)


def test_a_popular_member_does_not_have_all_compositions_looked_at() -> None:
    index = AdapterIndex()
    for arrival in range(500):
        index.add(_request(arrival, "popular", f"x{arrival}"))
    in_play = _Counted({"popular", "x7"})
    found = index.oldest(in_play)
    assert found is not None
    assert found.adapters == ("popular", "x7")
    assert in_play.num_lookups < 10


def test_an_index_forgets_adapters_that_nobody_waits_with() -> None:
    index = AdapterIndex()
    requests = [_request(arrival, *each) for arrival, each in enumerate(ADAPTER_SETS * 2)]
    for request in requests:
        index.add(request)
    for request in requests:
        index.remove(request)
    assert vars(index) == vars(AdapterIndex())


class _Told(Fcfs):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def refusals(self, now_s: float) -> list[Refusal]:
        return [Refusal(request, "Go.", now_s) for request in self._waiting]

    def next_refusal_s(self) -> float | None:
        return 7.0

    def start(self, request: QueuedRequest, now_s: float) -> None:
        self.told.append(f"start {request.request_id} {now_s}")

    def count_output(self, request: QueuedRequest, num_tokens: int, now_s: float) -> None:
        self.told.append(f"count {request.request_id} {num_tokens} {now_s}")

    def end(self, request: QueuedRequest) -> None:
        self.told.append(f"end {request.request_id}")


def test_the_order_is_told_of_everything() -> None:
    order = _Told()
    policy = Cluster(order, 1)
    first, second = _waiting(policy, (), ("a",))
    assert [each.request for each in policy.refusals(3.0)] == [first, second]
    assert policy.next_refusal_s() == 7.0
    policy.remove(second)
    policy.call(first)
    assert order.upcoming(2) == []
    policy.start(first, 1.0)
    policy.count_output(first, 4, 2.0)
    policy.end(first)
    assert order.told == ["start r0 1.0", "count r0 4 2.0", "end r0"]
    methods = {name for name in vars(Policy) if not name.startswith("_")}
    assert methods <= vars(Cluster).keys()  # what it does not have the order would not be asked


def _skewed_works(num_requests: int, rate_per_s: float) -> list[Work]:
    """Of 64 adapters, the first of which are named more often; in proportion to 1 / rank."""
    rng = random.Random(11)
    names = [f"a{index}" for index in range(64)]
    popularity = [1 / (1 + index) for index in range(64)]
    now_s, works = 0.0, []
    for arrival, name in enumerate(rng.choices(names, popularity, k=num_requests)):
        now_s += rng.expovariate(rate_per_s)
        request = QueuedRequest(
            request_id=f"r{arrival}",
            arrival=arrival,
            queued_s=now_s,
            adapters=(name,),
            num_adapter_tokens=256,
            num_prompt_tokens=rng.randint(8, 256),
        )
        works.append(Work(request, rng.randint(8, 256)))
    return works


def _play(make_policy: PolicyFactory) -> tuple[Lab, list[Played]]:
    # A queue of some hundreds: the arrivals are a little more than what can be served.
    lab = Lab(make_policy, Device(max_running=32, num_tokens=12_000, load_s=0.5))
    return lab, lab.play(_skewed_works(10_000, rate_per_s=8.0))


def test_batches_have_fewer_adapters_and_everyone_is_served() -> None:
    """Plays 20,000 requests, of 64 adapters, in about a second."""
    fcfs, first_come = _play(Fcfs)
    lab, clustered = _play(lambda: Cluster(Fcfs(), 8))
    assert lab.num_loads < fcfs.num_loads / 2
    assert lab.now_s < fcfs.now_s  # less memory for adapters, fewer loads: more is served
    assert all(each.ended_s is not None for each in first_come + clustered)
    calls_s = [each.called_s for each in lab.calls if each.called_s is not None]
    for index, each in enumerate(clustered):
        num_before = bisect_left(calls_s, each.work.request.queued_s)
        assert each.call is not None
        num_ahead = index - num_before  # who waited when it arrived
        assert each.call - num_before <= (num_ahead + 1) * (MAX_OVERTAKING + 1)
    assert max(num_overtaking(each, lab.calls) for each in clustered[:1000]) > 0


def test_it_works_over_another_order() -> None:
    """Plays 20,000 requests, of 64 adapters, in about a second."""
    by_size, _ = _play(lambda: SizeAware(OutputLengths()))
    lab, played = _play(lambda: Cluster(SizeAware(OutputLengths()), 8))
    assert lab.num_loads < by_size.num_loads / 2
    assert all(each.ended_s is not None for each in played)
