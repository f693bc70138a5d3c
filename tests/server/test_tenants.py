"""Whose request the engine is told it is, and how much that counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.running_server import BASE, RunningServer, running_server
from tests.server.some_keys import bearer, some_key, write_keys

KEYS = (
    some_key("a1", "a1-key", tenant="acme", weight=4.0),
    some_key("a2", "a2-key", tenant="acme", weight=4.0),
    some_key("b", "b-key", tenant="bolt"),
)


@pytest.fixture(scope="module", params=[False, True], ids=["apart", "shared"])
def server(
    model_dir: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RunningServer]:
    """With these keys and an API key; prefix caches apart, or shared by all."""
    directory = tmp_path_factory.mktemp("tenants")
    write_keys(directory / "keys.json", *KEYS)
    with running_server(
        model_dir,
        directory / "log",
        keys_file=directory / "keys.json",
        api_key="api",
        share_prefix_cache=request.param,
    ) as running:
        yield running


def payer(server: RunningServer, key: str, **params: Any) -> tuple[str | None, float]:
    """Tenant and weight that the engine is told."""
    body = {"model": BASE, "prompt": "abc", "max_tokens": 1, **params}
    response = server.post("/v1/completions", body, headers=bearer(key))
    assert response.status_code == 200, response.text
    sent = server.events("AddRequest")[-1]
    return sent["tenant"], sent["weight"]


def test_a_key_says_who_pays_also_where_all_share_their_prefixes(server: RunningServer) -> None:
    assert payer(server, "a1-key") == payer(server, "a2-key") == ("acme", 4)
    assert payer(server, "b-key") == ("bolt", 1)
    assert payer(server, "api") == ("--api-key", 1)


def test_nothing_that_a_request_says_changes_who_pays(server: RunningServer) -> None:
    assert payer(server, "b-key", user="acme", cache_salt="acme") == ("bolt", 1)
