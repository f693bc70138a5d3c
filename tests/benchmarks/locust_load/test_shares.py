"""Each request is in one share, and what belongs together stays together."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.locust_load.shares import conversations, take_share
from motet.bench.workload import WorkRequest


@st.composite
def workloads(draw: st.DrawFn) -> list[WorkRequest]:
    num_requests = draw(st.integers(1, 40))
    requests = []
    for index in range(num_requests):
        after = draw(st.none() | st.integers(0, index - 1)) if index else None
        requests.append(
            WorkRequest(
                index=index,
                arrival_s=float(index // 2),
                adapter=None,
                num_prompt_tokens=1,
                num_output_tokens=1,
                stream=index,
                after=after,
            )
        )
    return requests


@given(workloads(), st.integers(1, 5))
def test_shares_are_the_workload_in_parts(requests: list[WorkRequest], count: int) -> None:
    shares = [take_share(requests, index, count) for index in range(count)]
    assert sorted(each.index for share in shares for each in share) == list(range(len(requests)))
    for share in shares:
        indices = {request.index for request in share}
        assert [request.index for request in share] == sorted(indices)
        assert all(request.after is None or request.after in indices for request in share)


@given(workloads())
def test_conversations_follow_each_other(requests: list[WorkRequest]) -> None:
    talks = conversations(requests)
    assert sorted(each.index for talk in talks for each in talk) == list(range(len(requests)))
    assert [talk[0].index for talk in talks] == sorted(talk[0].index for talk in talks)
    for talk in talks:
        assert talk[0].after is None
        said = {talk[0].index}
        for request in talk[1:]:
            assert request.after in said
            said.add(request.index)
