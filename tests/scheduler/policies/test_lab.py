"""The laboratory itself, with the plainest of policies."""

import random

import pytest

from motet.scheduler.policies.fcfs import Fcfs
from motet.scheduler.policy import QueuedRequest, Refusal
from tests.scheduler.policies.lab import Device, Lab, Work, num_overtaking


def _work(index: int, queued_s: float = 0.0, num_output_tokens: int = 1, **told: object) -> Work:
    request = QueuedRequest(request_id=f"r{index}", arrival=index, queued_s=queued_s, **told)  # type: ignore[arg-type]
    return Work(request, num_output_tokens)


def test_times_follow_from_sizes() -> None:
    device = Device(max_running=1, prompt_token_s=0.5, output_token_s=0.25)
    lab = Lab(Fcfs, device, tokens_per_count=3)
    first, second = lab.play(
        [_work(0, 1.0, 9, num_prompt_tokens=4), _work(1, 2.0, 1, num_prompt_tokens=2)]
    )
    assert (first.started_s, first.first_token_s, first.ended_s) == (1.0, 3.0, 5.0)
    assert (second.called_s, second.first_token_s, second.ended_s) == (5.0, 6.0, 6.0)
    assert second.ttft_s == pytest.approx(4.0)
    assert (first.num_counted, second.num_counted) == (9, 1)


def test_who_does_not_fit_holds_back_the_others() -> None:
    lab = Lab(Fcfs, Device(max_running=9, num_tokens=30))
    works = [_work(0, num_prompt_tokens=20), _work(1, num_prompt_tokens=20), _work(2)]
    played = lab.play(works)
    assert [each.called_s == 0.0 for each in played] == [True, True, False]
    assert played[1].started_s == played[0].ended_s == played[2].started_s


def test_an_adapter_takes_its_place_once_and_is_loaded_once() -> None:
    device = Device(max_running=9, num_tokens=20, load_s=5.0)
    lab = Lab(Fcfs, device)
    told = {"adapters": ("a",), "num_adapter_tokens": 10}
    first, second = lab.play([_work(0, **told), _work(1, **told)])
    assert first.started_s == second.started_s == 0.0
    assert second.ttft_s < 1.0 < 5.0 < first.ttft_s
    assert (lab.num_loads, lab.max_adapters) == (1, 1)


class _Impatient(Fcfs):
    """Refuses whoever has waited for a second and has not started."""

    def __init__(self) -> None:
        super().__init__()
        self.unstarted: list[QueuedRequest] = []

    def add(self, request: QueuedRequest) -> None:
        super().add(request)
        self.unstarted.append(request)

    def start(self, request: QueuedRequest, now_s: float) -> None:
        self.unstarted.remove(request)

    def refusals(self, now_s: float) -> list[Refusal]:
        refused = [request for request in self.unstarted if now_s - request.queued_s > 1.0]
        self.unstarted = [request for request in self.unstarted if request not in refused]
        return [Refusal(request, "It took too long.", 1.0) for request in refused]


def test_called_or_not_one_may_be_refused() -> None:
    lab = Lab(_Impatient, Device(max_running=9, num_tokens=30, output_token_s=1.0))
    works = [_work(0, 0.0, 9, num_prompt_tokens=9)]
    works += [_work(index, 0.5, 1, num_prompt_tokens=25) for index in (1, 2)]
    played = lab.play(works)
    assert [each.refused_s is None for each in played] == [True, False, False]
    assert [each.called_s is None for each in played] == [False, False, True]
    assert len(lab.calls) == 2


def test_first_come_first_served_by_priority() -> None:
    """Plays 20,000 requests, in about half a second."""
    rng = random.Random(7)
    now_s, works = 0.0, []
    for index in range(20_000):
        now_s += rng.expovariate(250.0)
        works.append(_work(index, now_s, rng.randint(1, 60), priority=rng.choice([0, 0, 1])))
    played = Lab(Fcfs, Device(max_running=256)).play(works)
    assert all(each.num_counted == each.work.num_output_tokens for each in played)
    for priority in (0, 1):
        same = [each for each in played if each.work.request.priority == priority]
        assert [each.called_s for each in same] == sorted(each.called_s or 0.0 for each in same)


def test_who_was_overtaken_is_counted() -> None:
    lab = Lab(Fcfs, Device(max_running=1))
    works = [_work(0, priority=1), _work(1), _work(2), _work(3, priority=1)]
    played = lab.play(works)
    assert [num_overtaking(each, lab.calls) for each in played] == [2, 0, 0, 0]
