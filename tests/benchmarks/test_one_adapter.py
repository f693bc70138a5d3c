"""The policy of merge-and-swap: one adapter at a time, and nobody waits for ever."""

import random

from benchmarks.merge_and_swap.one_adapter import MAX_OVERTAKING, OneAdapter
from motet.scheduler.policy import QueuedRequest


def request(arrival: int, *adapters: str) -> QueuedRequest:
    return QueuedRequest(request_id=f"r{arrival}", arrival=arrival, adapters=adapters)


def test_never_two_adapters_at_once_and_all_are_called() -> None:
    rng = random.Random(7)
    policy, live, waiting = OneAdapter(), [], {}
    for arrival in range(500):
        new = request(arrival, *rng.choice([(), ("a",), ("b",), ("b",)]))
        waiting[new] = None
        policy.add(new)
        while len(live) < 4 and (turn := policy.next(())) is not None:
            policy.call(turn)
            live.append(turn)
            del waiting[turn]
        assert len({each.adapters for each in live}) <= 1
        if live and rng.random() < 0.7:
            policy.end(live.pop(rng.randrange(len(live))))
    while waiting or live:
        while len(live) < 4 and (turn := policy.next(())) is not None:
            policy.call(turn)
            live.append(turn)
            del waiting[turn]
        policy.end(live.pop())
    assert policy.next(()) is None


def test_a_turn_ends_though_requests_of_its_adapter_keep_coming() -> None:
    policy = OneAdapter()
    policy.add(request(0, "a"))
    first = policy.next(())
    assert first is not None
    policy.call(first)
    policy.add(request(1, "b"))
    num_overtaking = 0
    for arrival in range(2, 2 + 2 * MAX_OVERTAKING):
        policy.add(request(arrival, "a"))
        turn = policy.next(())
        if turn is None:
            break
        assert turn.adapters == ("a",)
        policy.call(turn)
        num_overtaking += 1
    assert num_overtaking == MAX_OVERTAKING
    for _ in range(MAX_OVERTAKING + 1):
        policy.end(first)
    last = policy.next(())
    assert last is not None
    assert last.adapters == ("b",)
