"""Who may see which name: what one may not use is not there, however it is spelt."""

from pathlib import Path
from typing import Any

import pytest

from motet.server import middleware
from motet.server.context import RequestContext
from motet.server.principal import Principal, Role
from tests.server.conftest import StartServer, write_adapter
from tests.server.running_server import BASE, RunningServer
from tests.server.some_keys import bearer, some_key, write_keys
from tests.server.test_admin_adapters import ADAPTERS, create


@pytest.fixture
def as_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request comes from someone who may use what begins with "red"."""
    tenant = Principal("k1", "acme", frozenset({Role.INFERENCE}), ("red*",))

    def context(*args: Any, **kwargs: Any) -> RequestContext:
        return RequestContext(*args, **kwargs, principal=tenant)

    monkeypatch.setattr(middleware, "RequestContext", context)


@pytest.mark.usefixtures("as_tenant")
def test_what_one_may_not_use_is_not_there(start_server: StartServer, adapters_dir: Path) -> None:
    write_adapter(adapters_dir / "red-2", b"red-2")
    with start_server(adapter_dir=adapters_dir) as server:
        create(server, "red", "red")
        create(server, "blue", "blue")
        listed = [model["id"] for model in server.get("/v1/models").json()["data"]]
        assert listed == [BASE, "red", "red-2"]
        for model in ("red", f"{BASE}:red", "red@1", f"{BASE}:red@v1", "red-2", BASE):
            assert server.complete(model=model).status_code == 200
            assert server.get(f"/v1/models/{model}").status_code == 200
        missing = _refusals(server, "nothing")
        for model in ("blue", f"{BASE}:blue", "blue@1", f"{BASE}:blue@1"):
            assert _refusals(server, model) == [each.replace("nothing", model) for each in missing]


@pytest.mark.usefixtures("as_tenant")
def test_what_one_may_not_use_is_not_looked_for(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        write_adapter(adapters_dir / "green", b"green")
        assert server.complete(model="green").status_code == 404
        assert server.started.registry.catalogue.get("green") is None


def _refusals(server: RunningServer, model: str) -> list[str]:
    answers = [server.complete(model=model), server.get(f"/v1/models/{model}")]
    assert [each.status_code for each in answers] == [404, 404]
    assert all("x-adapter-id" not in each.headers for each in answers)
    return [each.text for each in answers]


def test_keys_say_who_may_use_what_and_who_made_it(
    start_server: StartServer, adapters_dir: Path, tmp_path: Path
) -> None:
    admin = some_key("root", "admin-secret", roles=[Role.ADMIN])
    tenant = some_key("alice", "secret", adapters=["red*"])
    write_keys(tmp_path / "keys.json", admin, tenant)
    options: dict[str, Any] = {
        "adapter_roots": (adapters_dir,),
        "keys_file": tmp_path / "keys.json",
    }
    with start_server(**options) as server:
        for name in ("red", "blue"):
            body = {"name": name, "source": {"type": "path", "uri": name}, "wait": True}
            assert server.post(ADAPTERS, body, headers=bearer("secret")).status_code == 403
            assert server.post(ADAPTERS, body, headers=bearer("admin-secret")).status_code == 200
        shown = server.get(f"{ADAPTERS}/red", headers=bearer("admin-secret")).json()
        assert shown["versions"][0]["created_by"] == "root"
        listed = server.get("/v1/models", headers=bearer("secret")).json()["data"]
        assert [model["id"] for model in listed] == [BASE, "red"]
        for model, expected in (("red@1", 200), ("blue", 404), (f"{BASE}:blue@1", 404)):
            body = {"model": model, "prompt": "abc", "max_tokens": 2}
            answer = server.post("/v1/completions", body, headers=bearer("secret"))
            assert answer.status_code == expected
