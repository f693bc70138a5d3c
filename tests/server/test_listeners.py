"""Admin routes on an address of their own, and what an address may be."""

import socket
import stat
from pathlib import Path
from typing import Any

import httpx2
import pytest

from motet.core.errors import ConfigError
from motet.server.auth import Surface
from motet.server.config import ServeConfig, TcpAddress, UnixAddress
from motet.server.listeners import bound_sockets
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer
from tests.server.some_keys import bearer, some_key, write_keys

KEYS = {"api_key": "api-key", "admin_key": "admin-key"}
PUBLIC = ("/v1/models", "/v1/models/tiny", "/v1/completions", "/nothing", "/")
PRIVATE = ("/admin/v1/memory", "/admin/", "/admin/x", "/v1/load_lora_adapter")
SHARED = ("/live", "/ready", "/health", "/metrics")


def statuses(url: str, paths: tuple[str, ...], key: str | None = None) -> list[int]:
    headers = {} if key is None else bearer(key)
    with httpx2.Client(base_url=url, headers=headers) as client:
        return [client.get(path).status_code for path in paths]


def test_each_listener_has_its_own_routes(start_server: StartServer) -> None:
    with start_server(admin_port=0, **KEYS) as server:
        admin_url = server.started.urls[Surface.ADMIN]
        assert admin_url != server.url
        assert statuses(server.url, PUBLIC, "admin-key") == [200, 200, 405, 404, 404]
        assert statuses(server.url, PRIVATE, "admin-key") == [404] * 4
        assert statuses(admin_url, PUBLIC, "admin-key") == [404] * 5
        assert statuses(admin_url, PRIVATE, "admin-key") == [200, 404, 404, 405]
        for url in (server.url, admin_url):
            assert statuses(url, SHARED, "api-key") == [200] * 4
            # Who has no key learns nothing of what is where.
            assert statuses(url, PUBLIC + PRIVATE) == [401] * 9
        assert statuses(admin_url, PRIVATE, "api-key") == [403] * 4
        assert statuses(server.url, PRIVATE, "api-key") == [404] * 4


def test_both_serve_the_same_server(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(admin_port=0, adapter_roots=(adapters_dir,)) as server:
        body = {"lora_name": "red", "lora_path": "red"}
        assert server.post("/v1/load_lora_adapter", body).status_code == 404
        url = server.started.urls[Surface.ADMIN]
        assert httpx2.post(f"{url}/v1/load_lora_adapter", json=body).status_code == 200
        assert [each["id"] for each in server.get("/v1/models").json()["data"]] == [BASE, "red"]
        assert server.complete(model="red").status_code == 200


def test_a_limited_key_is_limited_over_both(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, some_key("a", "a-key", limits={"requests_per_minute": 2}))
    with start_server(admin_port=0, keys_file=path) as server:
        urls = list(server.started.urls.values())
        assert statuses(urls[0], ("/metrics",), "a-key") == [200]
        assert statuses(urls[1], ("/metrics", "/metrics"), "a-key") == [200, 429]


def test_a_socket_in_the_file_system_is_its_owners(
    start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "admin.sock"
    with start_server(admin_host=f"unix:{path}") as server:
        assert server.started.urls[Surface.ADMIN] == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        transport = httpx2.HTTPTransport(uds=str(path))
        with httpx2.Client(base_url="http://localhost", transport=transport) as client:
            assert client.get("/admin/v1/memory").status_code == 200
            assert client.get("/v1/models").status_code == 404
        assert server.get("/admin/v1/memory").status_code == 404
        # A second server does not take it away.
        with pytest.raises(ConfigError, match="unix:"), start_server(admin_host=f"unix:{path}"):
            pass
        assert path.exists()
    assert not path.exists()


def test_a_socket_that_a_dead_server_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    config = ServeConfig(port=0, admin_host=f"unix:{path}")
    with bound_sockets(config) as sockets:
        assert set(sockets) == {Surface.PUBLIC, Surface.ADMIN}
    path.write_text("precious")
    with pytest.raises(ConfigError, match="in use"), bound_sockets(config):
        pass
    assert path.read_text() == "precious"


def test_a_taken_admin_port_is_said_so(start_server: StartServer, server: RunningServer) -> None:
    port = int(server.url.rpartition(":")[2])
    with (
        pytest.raises(ConfigError, match=f"127.0.0.1 port {port}.*--admin-port") as caught,
        start_server(admin_port=port),
    ):
        pass
    assert caught.value.param == "admin_port"


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({}, None),
        ({"admin_port": 9}, TcpAddress("127.0.0.1", 9)),
        ({"admin_host": "::1", "admin_port": 0}, TcpAddress("::1", 0)),
        ({"admin_host": "unix:/run/motet.sock"}, UnixAddress(Path("/run/motet.sock"))),
        ({"admin_host": "0.0.0.0", "admin_port": 9, **KEYS}, TcpAddress("0.0.0.0", 9)),
    ],
)
def test_admin_addresses(options: dict[str, Any], address: object) -> None:
    assert ServeConfig(**options).admin_address == address


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"admin_host": "127.0.0.1"}, "needs --admin-port"),
        ({"admin_host": "unix:"}, "needs a path"),
        ({"admin_host": "unix:/x", "admin_port": 9}, "no --admin-port"),
        ({"admin_port": 70_000}, "65535"),
        ({"admin_host": "0.0.0.0", "admin_port": 9}, "no key is set"),
        ({"admin_host": "example.org", "admin_port": 9}, "no key is set"),
    ],
)
def test_addresses_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**options)
