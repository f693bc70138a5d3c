"""Keys, roles and names: who gets in where."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from motet.core.errors import ConfigError
from motet.server.auth import AuthMiddleware
from motet.server.config import ServeConfig
from motet.server.hosts import require_allowed_host
from motet.server.key_ring import KeyRing
from motet.server.keys import utc_now
from motet.server.principal import Role
from tests.server.conftest import StartServer, write_adapters
from tests.server.running_server import BASE, RunningServer, running_server, wait_until
from tests.server.some_keys import bearer, some_key, write_keys

API, ADMIN = "api-key", "admin-key"
OPEN = ("/live", "/ready", "/health")


def raw_status(server: RunningServer, request_line: str, headers: str = "") -> int:
    """The status of a request that no client library would send."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        request = f"{request_line}\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"
        connection.sendall(request.encode())
        return int(connection.recv(100).split()[1])


def complete(server: RunningServer, headers: dict[str, str]) -> httpx2.Response:
    body = {"model": BASE, "prompt": "x", "max_tokens": 1}
    return server.post("/v1/completions", body, headers=headers)


def load(server: RunningServer, headers: dict[str, str]) -> httpx2.Response:
    body = {"lora_name": "red", "lora_path": "red", "load_inplace": True}
    return server.post("/v1/load_lora_adapter", body, headers=headers)


@pytest.fixture(scope="module")
def guarded(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("guarded")
    adapters = write_adapters(directory / "adapters")
    with running_server(
        model_dir,
        directory / "log",
        api_key=API,
        admin_key=ADMIN,
        adapter_roots=(adapters,),
    ) as running:
        yield running


def test_probes_are_open(guarded: RunningServer) -> None:
    assert [guarded.get(path).status_code for path in OPEN] == [200] * 3


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(API.upper()),
        bearer(API + "x"),
        bearer(API[:-1]),
        {"Authorization": "Bearer"},
        {"Authorization": API},
        {"Authorization": f"Basic {API}"},
        {"api-key": API},
    ],
)
def test_without_a_right_key_nothing_else_answers(
    guarded: RunningServer, headers: dict[str, str]
) -> None:
    """Not even whether there is such a route."""
    responses = [complete(guarded, headers), load(guarded, headers)] + [
        guarded.get(path, headers=headers)
        for path in ("/v1/models", "/metrics", "/", "/nothing", "/live/", "//live", "/v1/live")
    ]
    for response in responses:
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"]
        assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("key", [API, ADMIN])
def test_either_key_opens_the_api_and_the_metrics(guarded: RunningServer, key: str) -> None:
    assert complete(guarded, bearer(key)).status_code == 200
    assert guarded.get("/metrics", headers=bearer(key)).status_code == 200
    assert guarded.get("/nothing", headers=bearer(key)).status_code == 404
    assert complete(guarded, {"authorization": f"bearer  {key}"}).status_code == 200


def test_only_the_admin_key_loads_and_unloads(guarded: RunningServer) -> None:
    for response in (
        load(guarded, bearer(API)),
        guarded.post("/v1/unload_lora_adapter", {"lora_name": "red"}, headers=bearer(API)),
    ):
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "insufficient_permissions"
        assert response.json()["error"]["type"] == "permission_error"
    assert load(guarded, bearer(ADMIN)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/admin/v1/memory", "/admin/v1/adapters/red:pin", "/admin/", "/admin/v9/anything"),
        *("/admin%2fv1/memory", "/%61dmin/v1/memory", "/admin//v1/memory"),
        *("/load_lora_adapter", "/unload_lora_adapter"),
    ],
)
def test_all_below_admin_takes_the_admin_key_whether_or_not_it_is_there(
    guarded: RunningServer, path: str
) -> None:
    for method in ("GET", "POST"):
        response = guarded.http.request(method, path, headers=bearer(API))
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "insufficient_permissions"
        assert guarded.http.request(method, path).status_code == 401
        response = guarded.http.request(method, path, headers=bearer(ADMIN))
        assert response.status_code not in (401, 403)


def test_a_confusing_host_opens_nothing(guarded: RunningServer) -> None:
    """The decision is on the path alone; others have rebuilt a URL from this header."""
    for host in ("localhost/live?", "localhost/live#", "/live"):
        response = guarded.get("/v1/models", headers={"Host": host})
        assert response.status_code in (400, 401)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "PATCH"])
@pytest.mark.parametrize(
    "path",
    [
        *(
            "/v1/models",
            "/live/",
            "//live",
            "/live;x",
            "/live%2f",
            "/live%00",
            "/live/../v1/models",
        ),
        *("/LIVE", "/ready/x", "/.", "/metrics", "/live%23", "/live%3f"),
    ],
)
def test_nothing_that_looks_like_an_open_path_is_one(
    guarded: RunningServer, method: str, path: str
) -> None:
    assert raw_status(guarded, f"{method} {path} HTTP/1.1") == 401


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET http://evil.example/live HTTP/1.1", 200),  # a path is a path, whatever its host
        ("GET http://evil.example/v1/models HTTP/1.1", 401),
        ("GET http://evil.example/live/../v1/models HTTP/1.1", 401),
        ("GET http://x@/v1/models HTTP/1.1", 400),
        ("GET v1/models HTTP/1.1", 400),
        ("OPTIONS * HTTP/1.1", 401),
        ("CONNECT localhost:80 HTTP/1.1", 400),
        ("GET /live?/v1/models HTTP/1.1", 200),
        ("GET /v1/models?/live HTTP/1.1", 401),
    ],
)
def test_targets_of_other_forms(guarded: RunningServer, request_line: str, status: int) -> None:
    assert raw_status(guarded, request_line) == status


def test_a_websocket_gets_no_further_than_any_request(guarded: RunningServer) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    assert raw_status(guarded, "GET /v1/models HTTP/1.1", upgrade) == 401


@pytest.mark.parametrize("kind", ["websocket", "something-new"])
def test_what_is_not_http_reaches_no_route(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it was let in")

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    guard = AuthMiddleware(app, ServeConfig(), KeyRing([]))
    asyncio.run(guard({"type": kind, "path": "/live"}, receive, send))
    assert [each["type"] for each in sent] == ["websocket.close"] * (kind == "websocket")


def test_an_api_key_alone_is_also_the_admin_key(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(api_key=API, adapter_roots=(adapters_dir,)) as server:
        assert load(server, bearer(API)).status_code == 200
        assert load(server, {}).status_code == 401


def test_an_admin_key_alone_guards_everything(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(admin_key=ADMIN, adapter_roots=(adapters_dir,)) as server:
        assert complete(server, {}).status_code == 401
        assert complete(server, bearer(ADMIN)).status_code == 200
        assert load(server, bearer(ADMIN)).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8000"])
def test_without_keys_this_machine_may_be_called_by_its_own_names(
    server: RunningServer, host: str
) -> None:
    assert server.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "192.168.0.1", "::1x"])
def test_without_keys_other_names_are_refused(server: RunningServer, host: str) -> None:
    """A web page whose name resolves to this machine must not reach it."""
    response = server.get("/v1/models", headers={"Host": host})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("keys", [{}, {"api_key": API}])
def test_a_server_answers_to_the_names_it_was_given(
    start_server: StartServer, keys: dict[str, str]
) -> None:
    with start_server(allowed_hosts=("api.EXAMPLE.com",), **keys) as server:
        for host, status in (
            ("api.example.com", 200),
            ("API.example.com:443", 200),
            ("localhost", 200),
            ("evil.example", 403),
            ("api.example.com.evil.example", 403),
        ):
            headers = {"Host": host, **bearer(API)}
            assert server.get("/v1/models", headers=headers).status_code == status
            assert server.get("/live", headers={"Host": host}).status_code == 200


def test_a_request_without_a_name_is_no_browsers() -> None:
    for allowed in ((), ("api.example.com",)):
        require_allowed_host("", allowed, has_keys=False)


def test_a_revoked_key_is_refused_without_a_restart(
    start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    alice, bob = some_key("alice", "alice-key"), some_key("bob", "bob-key")
    write_keys(path, alice)
    with start_server(keys_file=path) as server:
        assert complete(server, bearer("alice-key")).status_code == 200
        assert complete(server, bearer("bob-key")).status_code == 401
        write_keys(path, bob)
        wait_until(lambda: complete(server, bearer("bob-key")).status_code == 200)
        assert complete(server, bearer("alice-key")).status_code == 401
        write_keys(path)
        wait_until(lambda: complete(server, bearer("bob-key")).status_code == 401)
        assert server.get("/v1/models").status_code == 401  # no keys are not no guard


def test_keys_of_a_file_have_roles_and_expire(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    soon = utc_now() + timedelta(seconds=1.5)
    write_keys(
        path,
        some_key("user", "user-key"),
        some_key("root", "root-key", roles=[Role.ADMIN]),
        some_key("old", "old-key", expires_at=utc_now()),
        some_key("brief", "brief-key", expires_at=soon),
    )
    with start_server(keys_file=path, api_key=API, admin_key=ADMIN) as server:
        for key, status in (("user-key", 403), ("root-key", 200), (API, 403), (ADMIN, 200)):
            assert server.get("/admin/v1/memory", headers=bearer(key)).status_code == status
            assert complete(server, bearer(key)).status_code == 200
        refusal = complete(server, bearer("old-key"))
        assert refusal.status_code == 401
        assert "expired" in refusal.json()["error"]["message"]
        wait_until(lambda: complete(server, bearer("brief-key")).status_code == 401)
        assert utc_now() >= soon


def test_keys_of_one_tenant_share_cached_prefixes_and_no_others(
    start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    write_keys(
        path,
        some_key("a1", "a1-key", tenant="acme"),
        some_key("a2", "a2-key", tenant="acme"),
        some_key("b", "b-key", tenant="bell"),
    )
    with start_server(keys_file=path) as server:
        cached = {}
        for key in ("a1-key", "b-key", "a2-key"):
            body = {"model": BASE, "prompt": "abcdefgh"}
            usage = server.post("/v1/completions", body, headers=bearer(key)).json()["usage"]
            cached[key] = usage["prompt_tokens_details"]["cached_tokens"]
        assert cached == {"a1-key": 0, "b-key": 0, "a2-key": 7}
        tenants = [event["prefix_scope"] for event in server.events("AddRequest")]
        assert tenants == ["acme", "bell", "acme"]


def test_a_server_does_not_start_with_a_broken_file_of_keys(
    start_server: StartServer, tmp_path: Path
) -> None:
    for content in (None, "{"):
        if content is not None:
            (tmp_path / "keys.json").write_text(content)
        with pytest.raises(ConfigError), start_server(keys_file=tmp_path / "keys.json"):
            pass


def test_where_files_are_is_told_to_admins_only(
    start_server: StartServer, adapters_dir: Path
) -> None:
    path = str(adapters_dir / "red")
    with start_server(adapter_dir=adapters_dir, api_key=API, admin_key=ADMIN) as server:
        server.complete(model="red")
        for key, root in ((API, "red"), (ADMIN, path)):
            shown = server.get("/v1/models/red", headers=bearer(key)).json()
            listed = server.get("/v1/models", headers=bearer(key)).json()["data"]
            assert shown["root"] == root
            assert root in [each["root"] for each in listed]


def test_metrics_name_all_adapters_so_not_every_key_opens_them(
    start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    write_keys(
        path,
        some_key("some", "some", adapters=["red"]),
        some_key("none", "none", adapters=[]),
        some_key("all", "all"),
        some_key("admin", "admin", adapters=["red"], roles=[Role.ADMIN]),
    )
    with start_server(keys_file=path) as server:
        statuses = {
            key: server.get("/metrics", headers=bearer(key)).status_code
            for key in ("some", "none", "all", "admin")
        }
    assert statuses == {"some": 403, "none": 403, "all": 200, "admin": 200}
