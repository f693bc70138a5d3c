"""The policy that `docs/scheduling.md` shows: it is run as it stands there."""

import re
from pathlib import Path

from motet.scheduler.policy import Policy, PolicyFactory, QueuedRequest
from tests.scheduler.policies.lab import Device, Lab, Work

DOC = Path(__file__).parents[3] / "docs" / "scheduling.md"


def example() -> PolicyFactory:
    (code,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    names: dict[str, type[Policy]] = {}
    exec(code, names)
    return names["ShortestPrompt"]


def test_the_example_does_what_it_says() -> None:
    lengths = [50, 400, 7, 90, 7, 300]
    works = [
        Work(QueuedRequest(request_id=str(index), arrival=index, num_prompt_tokens=length))
        for index, length in enumerate(lengths)
    ]
    lab = Lab(example(), Device(max_running=1))
    played = lab.play(works)
    assert all(each.ended_s is not None for each in played)
    called = [each.work.request.arrival for each in lab.calls]
    assert called == [2, 4, 0, 3, 5, 1]
    assert [each.num_prompt_tokens for each in upcoming(example())] == [1, 2, 3]


def upcoming(factory: PolicyFactory) -> list[QueuedRequest]:
    policy = factory()
    for length in (3, 1, 4, 2):
        policy.add(QueuedRequest(request_id=str(length), num_prompt_tokens=length))
    return policy.upcoming(3)
