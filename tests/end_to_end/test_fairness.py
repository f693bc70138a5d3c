"""Too much for `motet serve`, as processes: whose turn it is, and who is told to come back."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.security.real_server import API, RealServer, real_server
from tests.server.some_keys import bearer, some_key, write_keys

pytestmark = pytest.mark.slow

MAX_RUNNING = 2
NUM_FLOOD, NUM_POLITE = 20, 2
QUEUED = 'motet_tenant_queued_sequences{tenant="flood"}'


@contextlib.contextmanager
def serving(directory: Path, *options: str) -> Iterator[RealServer]:
    """A server with keys of two tenants, "flood" and "polite"."""
    keys = [some_key(name, f"{name}-key", tenant=name) for name in ("flood", "polite")]
    write_keys(directory / "keys.json", *keys)
    with real_server(directory, directory / "keys.json", "--max-queued", "100", *options) as server:
        yield server


async def ends_of_a_flood_and_a_polite_tenant(url: str) -> tuple[list[str], int]:
    """Who was done, in order; and how many had been when the polite tenant's requests came."""
    ends: list[str] = []
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:

        async def ask(tenant: str, number: int) -> None:
            body = {"model": "tiny", "prompt": f"{tenant} {number}", "max_tokens": 100}
            body |= {"ignore_eos": True}
            answer = await http.post("/v1/completions", json=body, headers=bearer(f"{tenant}-key"))
            assert answer.status_code == 200, answer.text
            ends.append(tenant)

        async def num_queued() -> float:
            text = (await http.get("/metrics", headers=bearer(API))).text
            found = [line for line in text.splitlines() if line.startswith(QUEUED)]
            return float(found[0].split()[-1]) if found else 0.0

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(NUM_FLOOD):
                group.create_task(ask("flood", number))
            while await num_queued() < NUM_FLOOD // 2:
                await asyncio.sleep(0.01)
            num_before = len(ends)
            for number in range(NUM_POLITE):
                group.create_task(ask("polite", number))
    return ends, num_before


def test_a_polite_tenant_does_not_wait_for_the_backlog_of_a_flood(tmp_path: Path) -> None:
    """It waits for those that run, and then has turns in between: counted, not timed."""
    with serving(tmp_path, "--policy", "fair", "--max-running", str(MAX_RUNNING)) as server:
        ends, num_before = asyncio.run(ends_of_a_flood_and_a_polite_tenant(server.serving.url))
    assert (ends.count("flood"), ends.count("polite")) == (NUM_FLOOD, NUM_POLITE)
    num_until_polite = len(ends) - ends[::-1].index("polite") - NUM_POLITE
    # Those that ran when it came, and as many again as it had itself; and one that was under way.
    assert num_until_polite <= num_before + MAX_RUNNING + NUM_POLITE + 1


async def answers_to_a_flood(url: str) -> list[httpx2.Response]:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:

        async def ask(number: int) -> httpx2.Response:
            body = {"model": "tiny", "prompt": f"{number}", "max_tokens": 200, "ignore_eos": True}
            body["stream"] = number % 2 == 0
            return await http.post("/v1/completions", json=body, headers=bearer("flood-key"))

        return await asyncio.gather(*(ask(number) for number in range(NUM_FLOOD)))


def test_what_would_come_too_late_is_refused_and_the_rest_is_served(tmp_path: Path) -> None:
    """One runs at a time, so that most would wait for far longer than a first token may take."""
    options = ["--policy", "slo", "--ttft-slo", "0.1", "--max-running", "1"]
    with serving(tmp_path, *options) as server:
        answers = asyncio.run(answers_to_a_flood(server.serving.url))
        metrics = server.http.get("/metrics", headers=bearer(API)).text
    refused = [answer for answer in answers if answer.status_code == 503]
    served = [answer for answer in answers if answer.status_code == 200]
    assert refused
    assert served
    assert len(refused) + len(served) == NUM_FLOOD
    for answer in refused:
        assert answer.json()["error"]["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) >= 1
    assert f'motet_refused_requests_total{{reason="policy"}} {len(refused):.1f}' in metrics
