"""The servers under attack: those of the server's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.real_server import ADMIN, ALICE, API, BOB, RealServer, real_server
from tests.server.conftest import (
    StartServer,
    _logs_go_to_pytest,
    adapters_dir,
    model_dir,
    server,
    start_server,
    write_adapters,
)
from tests.server.running_server import RunningServer, running_server
from tests.server.some_keys import some_key, write_keys

__all__ = [
    "ADMIN",
    "API",
    "StartServer",
    "_logs_go_to_pytest",
    "adapters_dir",
    "model_dir",
    "server",
    "start_server",
]

TENANT = "the-tenant-key"


@pytest.fixture(scope="module")
def guarded(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with an API key, an admin key, and the key of a tenant."""
    directory = tmp_path_factory.mktemp("guarded")
    adapters = write_adapters(directory / "adapters")
    write_keys(directory / "keys.json", some_key("tenant", TENANT))
    with running_server(
        model_dir,
        directory / "log",
        api_key=API,
        admin_key=ADMIN,
        keys_file=directory / "keys.json",
        adapter_dir=adapters,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A real engine, shared by all files; alice and bob may each use what begins with their name.

    Slow to start, so what uses it is marked.
    """
    directory = tmp_path_factory.mktemp("real")
    keys = [
        some_key(name, secret, tenant=name, adapters=[f"{name}-*"])
        for name, secret in (("alice", ALICE), ("bob", BOB))
    ]
    write_keys(directory / "keys.json", *keys)
    with real_server(directory, directory / "keys.json") as server:
        yield server
