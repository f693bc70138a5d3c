"""What is asked is the workload, once or again and again, divided among processes."""

import json
from collections import Counter
from itertools import islice, pairwise

import pytest

from benchmarks.locust_load.served import Served
from benchmarks.locust_load.supply import MixSupply, Share, WorkloadSupply
from benchmarks.workload import Mix
from motet.bench.named import make_workload
from motet.bench.target import Target
from tests.benchmarks.locust_load.chosen import settings

SERVED = Served(names=("base", "a0", "a1"), base="base")
PARAMETERS = {"rate_per_s": "20", "duration_s": "5", "length_scale": "0.02", "num_adapters": "40"}
TARGET = Target(url="http://127.0.0.1:8000", api_key="k-0", tenant_keys={"polite": "k-1"})


def supply(*arguments: str, share: Share | None = None, workload: str = "zipf") -> WorkloadSupply:
    parameters = PARAMETERS if workload == "zipf" else {"duration_s": "5"}
    pairs = [f"--param={name}={value}" for name, value in parameters.items()]
    chosen = settings("--workload", workload, "--seed", "5", *pairs, *arguments)
    return WorkloadSupply(chosen, TARGET, SERVED, share or Share(index=0, count=1, prompt_seed=11))


def test_requests_are_those_of_the_workload_with_served_names_and_few_groups() -> None:
    workload = make_workload("zipf", PARAMETERS, 5)
    planned = list(supply().requests())
    assert [each.request for each in planned] == list(workload.requests)
    assert [each.at_s for each in planned] == [each.arrival_s for each in workload.requests]
    asks = [supply().write(each) for each in planned]
    bodies = [json.loads(ask.body) for ask in asks]
    assert {body["model"] for body in bodies} == {"a0", "a1"}
    for body, request in zip(bodies, workload.requests, strict=True):
        assert body["max_tokens"] == request.num_output_tokens
        assert len(body["prompt"].split()) == request.num_prompt_tokens
    by_adapter = Counter(each.adapter for each in workload.requests)
    assert len({ask.group for ask in asks}) == min(11, len(by_adapter))
    [(most, count), *_] = by_adapter.most_common()
    assert Counter(ask.group for ask in asks)[str(most)] == count
    assert {ask.headers["Authorization"] for ask in asks} == {"Bearer k-0"}


def test_processes_divide_a_workload_and_write_the_same_prompts() -> None:
    def written(index: int, count: int, prompt_seed: int) -> list[tuple[float, bytes]]:
        part = supply(share=Share(index=index, count=count, prompt_seed=prompt_seed))
        return [(each.at_s, part.write(each).body) for each in part.requests()]

    whole = written(0, 1, 11)
    assert sorted(written(0, 3, 11) + written(1, 3, 11) + written(2, 3, 11)) == sorted(whole)
    # Another load test has other words, or a prefix cache would know them.
    assert max((body for _, body in whole), key=len) not in {body for _, body in written(0, 1, 12)}


def test_a_repeated_workload_goes_on_with_the_next_seed() -> None:
    first, second = (make_workload("zipf", PARAMETERS, seed).requests for seed in (5, 6))
    planned = list(islice(supply("--repeat").requests(), len(first) + len(second)))
    assert [each.request for each in planned] == [*first, *second]
    again = planned[len(first)]
    assert again.at_s == pytest.approx(first[-1].arrival_s + second[0].arrival_s)
    assert len({each.key for each in planned}) == len(planned)


def test_a_conversation_is_asked_in_a_row() -> None:
    talks = [list(talk) for talk in supply(workload="conversations").conversations()]
    assert sum(map(len, talks)) == len(list(supply(workload="conversations").requests()))
    [longest] = islice(sorted(talks, key=len, reverse=True), 1)
    assert len(longest) > 1
    prompts = [json.loads(ask.body)["prompt"] for ask in longest]
    for before, after in pairwise(prompts):
        assert after.startswith(before)


def test_tenants_have_their_own_keys_and_rows() -> None:
    asks = [
        (each.request.tenant, supply(workload="tenants").write(each))
        for each in islice(supply(workload="tenants").requests(), 50)
    ]
    keys = {tenant: ask.headers["Authorization"] for tenant, ask in asks}
    assert len(keys) > 1
    for tenant, key in keys.items():
        assert key == ("Bearer k-1" if tenant == "polite" else "Bearer k-0")
    assert {ask.tenant_group for _, ask in asks} == {f"tenant {tenant}" for tenant in keys}


def test_a_wrong_parameter_is_named() -> None:
    with pytest.raises(ValueError, match="no parameter nope"):
        supply("--param", "nope=1")


def test_a_mix_of_many_models_has_few_groups() -> None:
    names = [f"m{index}" for index in range(200)]
    mix = Mix(weights=dict.fromkeys(names, 1.0), prompts={name: ["why?"] for name in names})
    chats = MixSupply(mix, TARGET, 8, Share(index=0, count=1, prompt_seed=3)).conversations()
    asks = [ask for talk in islice(chats, 2000) for ask in talk]
    assert len({ask.group for ask in asks}) == 11
    assert len({json.loads(ask.body)["model"] for ask in asks}) > 100
    assert {ask.path for ask in asks} == {"/v1/chat/completions"}
