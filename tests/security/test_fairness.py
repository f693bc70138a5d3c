"""Having more than one's turn: by priorities, weights, other tenants' names, and floods."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.security.conftest import ADMIN, API, TENANT
from tests.server.running_server import BASE, RunningServer, running_server
from tests.server.some_keys import bearer, some_key, write_keys

CHAT = {"messages": [{"role": "user", "content": "x"}]}
ENDPOINTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "x"}),
    ("/v1/completions", {"prompt": "x", "stream": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/responses", {"input": "x"}),
]
# What a request might call it that it wants to count for more, or as another's.
CLAIMS = {
    "weight": 100,
    "tenant": "other",
    "prefix_scope": "other",
    "key_id": "admin",
    "principal": {"tenant": "other"},
}


def ask(
    server: RunningServer, path: str, body: dict[str, Any], key: str, **headers: str
) -> httpx2.Response:
    json = {"model": BASE, **body}
    return server.post(path, json, headers={**bearer(key), **headers})


def sent(server: RunningServer) -> list[dict[str, Any]]:
    return server.events("AddRequest")


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
@pytest.mark.parametrize("key", [TENANT, API])
@pytest.mark.parametrize("priority", [-1, -(2**31), -(2**63), -0.5, "-1", [-1], True])
def test_only_an_admin_goes_before_everybody(
    guarded: RunningServer, path: str, body: dict[str, Any], key: str, priority: object
) -> None:
    num_before = len(sent(guarded))
    answer = ask(guarded, path, {**body, "priority": priority}, key)
    assert answer.status_code in (400, 403)
    assert len(sent(guarded)) == num_before
    if priority == -1 and "input" not in body:
        assert answer.json()["error"]["code"] == "insufficient_permissions"
        assert ask(guarded, path, {**body, "priority": -1}, ADMIN).status_code == 200
        assert sent(guarded)[-1]["priority"] == -1


@pytest.fixture(scope="module", params=[False, True], ids=["strict", "lenient"])
def shared(
    model_dir: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RunningServer]:
    """Two tenants; parameters that nobody knows are refused, or ignored."""
    directory = tmp_path_factory.mktemp("shared")
    keys = [some_key("own", "own-key", tenant="own", weight=2.0), some_key("other", "k")]
    write_keys(directory / "keys.json", *keys)
    with running_server(
        model_dir,
        directory / "log",
        keys_file=directory / "keys.json",
        lenient_parameters=request.param,
    ) as running:
        yield running


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
@pytest.mark.parametrize("claim", CLAIMS)
def test_no_field_changes_who_pays_and_how_much_it_counts(
    shared: RunningServer, path: str, body: dict[str, Any], claim: str
) -> None:
    num_before = len(sent(shared))
    answer = ask(shared, path, {**body, claim: CLAIMS[claim]}, "own-key")
    if answer.status_code == 200:  # ignored
        assert claim in answer.headers["x-ignored-params"]
        assert len(sent(shared)) == num_before + 1
        assert (sent(shared)[-1]["tenant"], sent(shared)[-1]["weight"]) == ("own", 2)
    else:
        assert answer.status_code == 400
        assert len(sent(shared)) == num_before


@pytest.mark.parametrize(
    "header", ["X-Tenant", "X-Weight", "X-Priority", "OpenAI-Organization", "X-Forwarded-User"]
)
def test_nor_does_any_header(shared: RunningServer, header: str) -> None:
    params = {"prompt": "x", "user": "other", "cache_salt": "other"}
    assert ask(shared, "/v1/completions", params, "own-key", **{header: "-9"}).status_code == 200
    request = sent(shared)[-1]
    assert (request["tenant"], request["weight"], request["priority"]) == ("own", 2, 0)


def test_a_flood_under_many_names_is_still_one_tenants(model_dir: Path, tmp_path: Path) -> None:
    """Users, salts, priorities and keys of one tenant: none of them makes more room for it."""
    flood = [some_key(name, name, tenant="flood") for name in ("f1", "f2")]
    write_keys(tmp_path / "keys.json", *flood, some_key("polite", "polite", tenant="polite"))

    async def complete(http: httpx2.AsyncClient, number: int, key: str) -> int:
        body = {"model": BASE, "prompt": "x", "user": f"u{number}", "cache_salt": f"s{number}"}
        body["priority"] = number
        return (await http.post("/v1/completions", json=body, headers=bearer(key))).status_code

    async def run(server: RunningServer) -> None:
        queue = server.started.client.queue
        async with httpx2.AsyncClient(base_url=server.url, timeout=30) as http:
            asks = {
                asyncio.ensure_future(complete(http, number, f"f{number % 2 + 1}"))
                for number in range(20)
            }
            while len(asks) > 8:
                done, asks = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
                assert {each.result() for each in done} == {503}
            assert queue.num_by_tenant == {"flood": 8}
            polite = asyncio.ensure_future(complete(http, 0, "polite"))
            while "polite" not in queue.num_by_tenant:
                assert not polite.done()
                await asyncio.sleep(0.01)
            for each in (*asks, polite):
                each.cancel()

    options = {"keys_file": tmp_path / "keys.json", "max_queued": 8}
    log = tmp_path / "log"
    with running_server(model_dir, log, engine={"max_running": 0}, **options) as server:
        asyncio.run(run(server))
