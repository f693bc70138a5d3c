"""Turns extend the last, conversations share their beginnings, and nothing else does."""

from collections import defaultdict
from itertools import pairwise

from motet.bench.named import make_workload
from motet.bench.prompts import PromptWriter
from motet.bench.workload import WorkRequest
from tests.bench.workloads import check


def conversations(requests: list[WorkRequest]) -> list[list[WorkRequest]]:
    by_stream = defaultdict(list)
    for request in requests:
        by_stream[request.stream].append(request)
    return list(by_stream.values())


def test_a_turn_extends_the_one_before_by_its_answer_and_a_question() -> None:
    requests = make_workload("conversations", {}, 11).requests
    each = conversations(requests)
    assert len(each) == 600
    assert {len(turns) for turns in each} == set(range(1, 8))
    writer = PromptWriter(1)
    for turns in each[:50]:
        assert turns[0].after is None
        for before, turn in pairwise(turns):
            assert turn.after == before.index
            assert turn.adapter == before.adapter
            assert turn.prefix == before.prefix
            question = turn.num_prompt_tokens - before.num_prompt_tokens - before.num_output_tokens
            assert 8 <= question < 64
            assert writer.text(turn).startswith(writer.text(before) + " ")


def test_conversations_of_an_adapter_share_a_few_system_prompts() -> None:
    workload = make_workload("conversations", {"num_adapters": 3, "num_system_prompts": 2}, 12)
    check(workload)
    lengths = defaultdict(set)
    for request in workload.requests:
        assert request.prefix is not None
        assert request.prefix.startswith(f"{request.adapter}/")
        lengths[request.prefix].add(request.num_prefix_tokens)
    assert len(lengths) == 6
    assert all(len(each) == 1 for each in lengths.values())
    assert len({length for each in lengths.values() for length in each}) > 1
    first = workload.requests[0]
    like = next(
        r for r in workload.requests if r.prefix == first.prefix and r.stream != first.stream
    )
    writer = PromptWriter(1)
    one, other = (writer.token_ids(request, range(9999)) for request in (first, like))
    count = first.num_prefix_tokens
    assert one[:count] == other[:count]
    assert one[count : count + 6] != other[count : count + 6]


def test_popularity_is_zipfs_and_thinking_takes_its_time() -> None:
    workload = make_workload("conversations", {"duration_s": 1000, "think_s": 4}, 13)
    each = conversations(list(workload.requests))
    first = sum(turns[0].adapter == "adapter-0" for turns in each) / len(each)
    assert abs(first - 1 / sum(1 / i for i in range(1, 33))) < 0.03
    thinking = [
        turn.arrival_s - before.arrival_s for turns in each for before, turn in pairwise(turns)
    ]
    assert 3.7 < sum(thinking) / len(thinking) < 4.3


def test_a_conversation_ends_before_it_is_too_long() -> None:
    limits = {"max_prompt_tokens": 700, "turns": "20,21"}
    requests = make_workload("conversations", limits, 14).requests
    assert 600 < max(request.num_prompt_tokens for request in requests) <= 700
    assert max(map(len, conversations(list(requests)))) < 20


def test_without_thinking_the_turns_are_still_in_order() -> None:
    check(make_workload("conversations", {"think_s": 0}, 15))
