"""Keys, roles and names: who gets in where."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.server.conftest import StartServer, write_adapters
from tests.server.running_server import BASE, RunningServer, running_server

API, ADMIN = "api-key", "admin-key"
OPEN = ("/live", "/ready", "/health")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


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
    "path", ["/admin/v1/memory", "/admin/v1/adapters/red:pin", "/admin/", "/admin/v9/anything"]
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
