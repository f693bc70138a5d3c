"""What holds of every policy, whatever happens to it: a state machine."""

from collections import Counter
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from motet.scheduler.policy import QueuedRequest
from tests.scheduler.policies.cases import CASES, Case

ADAPTERS = ["a", "b", "c", "d", "e"]


class PolicyMachine(RuleBasedStateMachine):
    """Requests that come, are called, run and end, or leave or are refused at any time."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.policy = case.make_factory()()
        self.num_arrived = 0
        self.num_calls = 0
        self.now_s = 0.0
        self.waiting: dict[QueuedRequest, float] = {}  # and by which call it has been called
        self.called: list[QueuedRequest] = []
        self.started: list[QueuedRequest] = []
        self.in_play: Counter[str] = Counter()

    @rule(
        adapters=st.lists(st.sampled_from(ADAPTERS), max_size=2, unique=True),
        # The largest are of `MAX_REQUEST_TOKENS`.
        num_adapter_tokens=st.integers(0, 16),
        num_prompt_tokens=st.integers(1, 64),
        max_output_tokens=st.integers(0, 32),
        tenant=st.sampled_from([None, "t1", "t2"]),
        weight=st.sampled_from([0.5, 1.0, 3.0]),
        count=st.integers(1, 8),
    )
    def add(
        self,
        adapters: list[str],
        num_adapter_tokens: int,
        num_prompt_tokens: int,
        max_output_tokens: int,
        tenant: str | None,
        weight: float,
        count: int,
    ) -> None:
        for _ in range(count):
            request = QueuedRequest(
                request_id=f"r{self.num_arrived}",
                arrival=self.num_arrived,
                queued_s=self.now_s,
                tenant=tenant,
                weight=weight,
                adapters=tuple(adapters),
                num_adapter_tokens=num_adapter_tokens if adapters else 0,
                num_prompt_tokens=num_prompt_tokens,
                max_output_tokens=max_output_tokens,
            )
            self.num_arrived += 1
            last_call = self.num_calls + self.case.max_calls(len(self.waiting))
            self.waiting[request] = last_call
            self.policy.add(request)

    @rule(count=st.integers(1, 40))
    def call(self, count: int) -> None:
        """As many as that, or all; those who run end in the order of their calls."""
        for _ in range(min(count, len(self.waiting))):
            request = self.policy.next(self.in_play)
            assert request is not None, "requests wait, and it is nobody's turn"
            last_call = self.waiting.pop(request)  # it waited, and no other policy's
            self.policy.call(request)
            self.num_calls += 1
            assert self.num_calls <= last_call
            self.called.append(request)
            self.in_play.update(request.adapters)
            while len(self.called) + len(self.started) > 4:
                self._end((self.started or self.called)[0])

    @precondition(lambda self: self.called)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.called))
        self.called.remove(request)
        self.started.append(request)
        self.policy.start(request, self.now_s)

    @precondition(lambda self: self.started)
    @rule(data=st.data(), num_tokens=st.integers(1, 8))
    def count_output(self, data: st.DataObject, num_tokens: int) -> None:
        self.policy.count_output(data.draw(st.sampled_from(self.started)), num_tokens, self.now_s)

    @precondition(lambda self: self.called or self.started)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(self.called + self.started)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self._remove(data.draw(st.sampled_from(list(self.waiting))))

    @rule(waits_s=st.floats(0.0, 4.0))
    def refuse(self, waits_s: float) -> None:
        """Time passes, and whoever is refused goes."""
        self.now_s += waits_s
        refusals = self.policy.refusals(self.now_s)
        assert len({refusal.request for refusal in refusals}) == len(refusals)
        for refusal in refusals:
            assert refusal.request not in self.started
            assert refusal.reason
            assert 0 < refusal.retry_after_s < inf
            if refusal.request in self.waiting:
                self._remove(refusal.request)
            else:
                self._end(refusal.request)

    @invariant()
    def next_is_one_that_waits_and_asking_changes_nothing(self) -> None:
        for in_play in (self.in_play, (), ADAPTERS):
            request = self.policy.next(in_play)
            assert (request is None) == (not self.waiting)
            assert request is None or request in self.waiting
            assert request is self.policy.next(in_play)

    @invariant()
    def upcoming_are_distinct_and_wait(self) -> None:
        before = self.policy.next(self.in_play)
        for count in (0, 1, 3, len(self.waiting), len(self.waiting) + 2):
            upcoming = self.policy.upcoming(count)
            assert len(upcoming) == len({*upcoming}) == min(count, len(self.waiting))
            assert {*upcoming} <= {*self.waiting}
        assert self.policy.next(self.in_play) is before

    def teardown(self) -> None:
        """Each that still waits is called, and each only once."""
        self.call(len(self.waiting))
        assert not self.waiting
        for request in [*self.called, *self.started]:
            self._end(request)
        assert self.policy.next(()) is None
        assert self.policy.upcoming(1) == []
        assert self.policy.refusals(self.now_s + 1e6) == []

    def _remove(self, request: QueuedRequest) -> None:
        del self.waiting[request]
        self.policy.remove(request)

    def _end(self, request: QueuedRequest) -> None:
        (self.called if request in self.called else self.started).remove(request)
        self.policy.end(request)
        self.in_play.subtract(request.adapters)
        self.in_play = +self.in_play  # the counter of those in play has no zeros


@pytest.mark.parametrize("name", CASES)
def test_what_holds_of_every_policy(name: str) -> None:
    run_state_machine_as_test(
        lambda: PolicyMachine(CASES[name]),
        settings=settings(max_examples=60, stateful_step_count=50, deadline=None),
    )
