"""--watch-adapter-dir: the folders of the adapter directory, followed while the server runs."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from motet.core.errors import ConfigError
from motet.server import watch
from motet.server.config import ServeConfig
from tests.server.conftest import StartServer, write_adapter, write_set
from tests.server.fake_engine import digest_of
from tests.server.running_server import RunningServer, wait_until
from tests.server.test_admin_adapters import adapter, create, delete, states


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SETTLE_MS", 100)


def digest(server: RunningServer, name: str) -> Any:
    response = server.get(f"/v1/models/{name}")
    return response.json()["digest"] if response.is_success else None


def test_what_changes_is_a_new_version_and_what_goes_is_gone(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir, watch_adapter_dir=True) as server:
        server.complete(model="red")
        write_adapter(adapters_dir / "red", b"new weights")
        wait_until(lambda: digest(server, "red") == digest_of(b"new weights"))
        assert states(server, "red") == {1: "ready", 2: "ready"}
        # What is bad changes nothing, and is followed once it is mended.
        write_adapter(adapters_dir / "red", b"bad")
        wait_until(lambda: "failed" in states(server, "red").values())
        assert digest(server, "red") == digest_of(b"new weights")
        write_adapter(adapters_dir / "red", b"mended")
        wait_until(lambda: digest(server, "red") == digest_of(b"mended"))
        # What has never been used is still not read.
        write_adapter(adapters_dir / "blue", b"later")
        write_adapter(adapters_dir / "team" / "green", b"green")
        listed = server.started.registry.catalogue
        wait_until(lambda: "team/green" in listed)
        assert digest(server, "blue") is None
        shutil.rmtree(adapters_dir / "red")
        wait_until(lambda: server.complete(model="red").status_code == 404)
        # It comes back when its folder does.
        write_adapter(adapters_dir / "red", b"red")
        wait_until(lambda: server.complete(model="red").status_code == 200)


def test_a_folder_that_comes_back_is_served_while_the_old_one_drains(
    start_server: StartServer, adapters_dir: Path
) -> None:
    options: dict[str, Any] = {"adapter_dir": adapters_dir, "watch_adapter_dir": True}
    with start_server(engine={"step_s": 0.05}, **options) as server:
        body = {"model": "red", "prompt": "abc", "max_tokens": 400, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            shutil.rmtree(adapters_dir / "red")
            wait_until(lambda: digest(server, "red") is None)
            write_adapter(adapters_dir / "red", b"new weights")
            wait_until(lambda: digest(server, "red") == digest_of(b"new weights"))
            assert server.started.registry.leases.count("red@1") == 1


def test_what_an_admin_has_changed_is_left_alone(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir, watch_adapter_dir=True) as server:
        create(server, "red", "blue")
        server.complete(model="blue")
        delete(server, "blue")
        for name in ("red", "blue"):
            write_adapter(adapters_dir / name, b"other")
        write_adapter(adapters_dir / "last", b"last")
        wait_until(lambda: "last" in server.started.registry.catalogue)
        assert digest(server, "red") == digest_of(b"blue")
        assert digest(server, "blue") is None
        assert [each["source"]["type"] for each in adapter(server, "red")["versions"]] == ["path"]


def test_what_went_while_the_server_was_down_is_gone(
    start_server: StartServer, adapters_dir: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "adapter_dir": adapters_dir,
        "watch_adapter_dir": True,
        "state_dir": tmp_path / "state",
    }
    with start_server(**options) as server:
        server.complete(model="red")
    shutil.rmtree(adapters_dir / "red")
    with start_server(**options) as server:
        wait_until(lambda: digest(server, "red") is None)


def test_there_must_be_a_directory() -> None:
    with pytest.raises(ConfigError, match="needs --adapter-dir"):
        ServeConfig(watch_adapter_dir=True)


def test_a_folder_may_come_with_everything_in_it(
    start_server: StartServer, adapters_dir: Path, tmp_path: Path
) -> None:
    """The system then tells of the folder alone."""
    write_adapter(tmp_path / "team" / "nested" / "green", b"green")
    with start_server(adapter_dir=adapters_dir, watch_adapter_dir=True) as server:
        (tmp_path / "team").rename(adapters_dir / "team")
        wait_until(lambda: "team/nested/green" in server.started.registry.catalogue)


def test_sets_and_their_experts_change_together(
    start_server: StartServer, adapters_dir: Path
) -> None:
    """Whichever is told of first: a set comes after its experts, and goes before them."""
    sets = ("a-mix", "z-mix")
    for name in sets:
        write_set(adapters_dir / name, {"red": b"red"})
    with start_server(adapter_dir=adapters_dir, watch_adapter_dir=True) as server:
        for name in ("red", *sets):
            assert server.complete(model=name).status_code == 200
        old = {name: digest(server, name) for name in sets}
        write_adapter(adapters_dir / "red", b"redder")
        for name in sets:
            write_set(adapters_dir / name, {"red": b"redder"})
        wait_until(lambda: all(digest(server, name) != old[name] for name in sets))
        assert digest(server, "red") == digest_of(b"redder")
        for name in ("red", *sets):
            shutil.rmtree(adapters_dir / name)
        listed = server.started.registry.catalogue
        wait_until(lambda: not {"red", *sets} & {each.name for each in listed.all()})


def test_what_lies_in_a_sets_folder_is_no_name_of_its_own(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir, watch_adapter_dir=True) as server:
        inside = {"name": "x", "digest": digest_of(b"x"), "path": "experts/x"}
        write_set(adapters_dir / "mix", {}, experts=[inside])
        write_adapter(adapters_dir / "mix" / "experts" / "x", b"x")
        write_adapter(adapters_dir / "team" / "green", b"green")
        listed = server.started.registry.catalogue
        wait_until(lambda: "team/green" in listed and "mix" in listed)
        assert server.complete(model="mix").status_code == 200
        names = {each["id"] for each in server.get("/v1/models").json()["data"]}
        assert names == {"tiny", "red", "blue", "mix", "team/green"}
