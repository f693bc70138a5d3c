"""A polite tenant beside one that floods: the real scheduler in virtual time, steps that take some.

A step takes 20 ms, and 0.1 ms for each of its tokens. The flood has 200 requests there at any time.
"""

import random
from collections.abc import Iterator

import pytest

from motet.core.messages import AddRequest
from motet.core.sampling import SamplingParams
from motet.memory.eviction import PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry
from motet.memory.unified import UnifiedMemory, unified_memory
from motet.scheduler.policies.choose import PolicyOptions, make_policy
from motet.scheduler.scheduler import Scheduler
from tests.scheduler.virtual_engine import SHAPE

STEP_S, TOKEN_S = 0.02, 1e-4
SECONDS = 160.0
WARM_UP_S = 40.0  # the flood's first requests start together, and end together
OPTIONS = PolicyOptions(ttft_slo_s=6.0, num_cluster_adapters=8)


class Server:
    """A scheduler, and a clock that its steps move."""

    def __init__(self, policy: str, max_running: int) -> None:
        self.now_s = 0.0
        self._first_tokens_s: dict[str, float] = {}
        self._num_sent = 0
        self.num_live = {"polite": 0, "flood": 0}
        self.scheduler = Scheduler(
            memory(),
            max_step_tokens=512,
            max_running=max_running,
            make_policy=make_policy(policy, OPTIONS),
            clock=lambda: self.now_s,
        )

    def send(self, tenant: str, num_prompt_tokens: int, num_output_tokens: int) -> str:
        self._num_sent += 1
        request_id = f"{tenant}-{self._num_sent}"
        prompt = [(self._num_sent * 7919 + at) % 50_000 for at in range(num_prompt_tokens)]
        sampling = SamplingParams(max_tokens=num_output_tokens)
        self.scheduler.add(AddRequest(request_id, prompt, sampling, None, tenant=tenant))
        self.num_live[tenant] += 1
        return request_id

    def step(self) -> None:
        batch = self.scheduler.schedule().batch
        self.now_s += STEP_S + TOKEN_S * batch.num_tokens
        tokens = [0] * sum(chunk.samples for chunk in batch.chunks)
        for output in self.scheduler.commit(batch, tokens):
            self._first_tokens_s.setdefault(output.request_id, self.now_s)
            if output.finish_reason is not None:
                self.num_live[output.request_id.partition("-")[0]] -= 1

    def first_token_s(self, request_id: str) -> float:
        return self._first_tokens_s.get(request_id, self.now_s)


def memory() -> UnifiedMemory:
    return unified_memory(
        PageGeometry(SHAPE, 16),
        SavingPolicy(PageCosts()),
        page_bytes=1,
        num_pages=8192,
        row_capacity=8192,
        host_budget_pages=1,
    )


def arrivals_s(rng: random.Random) -> Iterator[float]:
    now_s = 0.0
    while (now_s := now_s + rng.expovariate(1.0)) < SECONDS:
        yield now_s


def p99_s(policy: str, *, max_running: int, is_flooded: bool) -> float:
    """Of the polite tenant's times to the first token."""
    server = Server(policy, max_running)
    rng, flood_rng = random.Random(1), random.Random(2)
    sent: dict[str, float] = {}
    for due_s in arrivals_s(rng):
        while server.now_s < due_s:
            while is_flooded and server.num_live["flood"] < 200:
                server.send("flood", flood_rng.randint(64, 256), flood_rng.randint(400, 600))
            if not any(server.num_live.values()):
                server.now_s = due_s
            else:
                server.step()
        request_id = server.send("polite", rng.randint(64, 256), rng.randint(32, 64))
        sent[request_id] = due_s
    waits_s = [server.first_token_s(name) - due_s for name, due_s in sent.items()]
    steady = sorted(
        wait for wait, due_s in zip(waits_s, sent.values(), strict=True) if due_s > WARM_UP_S
    )
    return steady[int(0.99 * len(steady))]


@pytest.mark.slow
def test_its_first_tokens_take_one_and_a_half_times_as_long_at_most() -> None:
    alone = p99_s("fcfs", max_running=64, is_flooded=False)
    assert p99_s("fair", max_running=64, is_flooded=True) <= 1.5 * alone
    assert p99_s("fcfs", max_running=64, is_flooded=True) > 100 * alone


def test_nor_do_they_with_few_places() -> None:
    alone = p99_s("fcfs", max_running=16, is_flooded=False)
    assert p99_s("fair+slo", max_running=16, is_flooded=True) <= 1.5 * alone
