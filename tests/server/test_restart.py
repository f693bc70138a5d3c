"""What a server brings back after its end, however it ended."""

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from motet.core.errors import ConfigError
from tests.server.conftest import StartServer, write_adapter
from tests.server.fake_engine import digest_of
from tests.server.running_server import wait_until
from tests.server.test_admin_adapters import (
    ADAPTERS,
    adapter,
    alias,
    code,
    create,
    delete,
    post,
    states,
    used,
)
from tests.server.test_cli import ServeProcess, motet_serve

COLOURS = ("red", "blue", "green", "pink")


@pytest.fixture
def colours(adapters_dir: Path) -> Path:
    for name in COLOURS:
        write_adapter(adapters_dir / name, name.encode())
    return adapters_dir


def test_versions_aliases_and_pins_come_back(
    start_server: StartServer, colours: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"adapter_roots": (colours,), "state_dir": tmp_path / "state"}
    with start_server(**options) as server:
        create(server, "mine", "red")
        create(server, "mine", "blue", pin=True)
        alias(server, "mine", {"1": 1, "2": 3})
        create(server, "other", "green")
        create(server, "gone", "pink")
        delete(server, "gone")
        before = {name: adapter(server, name) for name in ("mine", "other")}
    with start_server(**options) as server:
        loaded = [Path(event["path"]).name for event in server.events("LoadAdapter")[4:]]
        assert sorted(loaded) == ["blue", "red"]  # pinned, so before the server was ready
        assert states(server, "mine") == {1: "ready", 2: "ready"}
        assert states(server, "other") == {1: "evicted"}
        for name, shown in before.items():
            again = adapter(server, name)
            for field in ("alias", "pinned"):
                assert again[field] == shown[field]
            for old, new in zip(shown["versions"], again["versions"], strict=True):
                for field in ("digest", "source", "created_at", "max_rank"):
                    assert old[field] == new[field]
        assert used(server.complete(model="other")) == ("other", "1")
        assert server.complete(model="gone").status_code == 404
        assert code(post(server, "other", "rollback")) == (409, "nothing_to_roll_back")
        assert post(server, "mine", "rollback").json()["alias"]["weights"] == {"2": 1.0}


def test_forgotten_names_of_the_directory_stay_away(
    start_server: StartServer, colours: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"adapter_dir": colours, "state_dir": tmp_path / "state"}
    with start_server(**options) as server:
        server.complete(model="blue")
        for name in ("red", "blue"):
            assert delete(server, name).status_code == 200
        # A load that fails does not bring the name back.
        assert create(server, "red", "nothing").status_code == 404
    with start_server(**options) as server:
        for name in ("red", "blue"):
            assert server.complete(model=name).status_code == 404
        assert server.complete(model="green").status_code == 200


def test_a_name_of_another_directory_is_not_there_until_that_one_is_served_again(
    start_server: StartServer, colours: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_adapter(other / "blue", b"other blue")
    state: dict[str, Any] = {"state_dir": tmp_path / "state"}
    with start_server(adapter_dir=colours, **state) as server:
        for name in ("red", "blue"):
            server.complete(model=name)
        create(server, "mine", "green")
    with start_server(adapter_dir=other, **state) as server:
        listed = [each["id"] for each in server.get("/v1/models").json()["data"]]
        assert listed[1:] == ["mine", "blue"]
        assert server.complete(model="blue").status_code == 200
        assert server.get("/v1/models/blue").json()["digest"] == digest_of(b"other blue")
    with start_server(adapter_dir=colours, **state) as server:
        assert states(server, "red") == {1: "evicted"}


def test_a_root_that_is_no_longer_one_is_not_read(
    start_server: StartServer, colours: Path, tmp_path: Path
) -> None:
    state: dict[str, Any] = {"state_dir": tmp_path / "state"}
    with start_server(adapter_roots=(colours,), **state) as server:
        create(server, "mine", "red")
    with start_server(**state) as server:
        refused = server.complete(model="mine")
        assert code(refused) == (503, "adapter_unavailable")
        assert "not under an allowed adapter root" in refused.json()["error"]["message"]
        assert len(server.events("LoadAdapter")) == 1


def test_a_version_never_means_other_content(
    start_server: StartServer, colours: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"adapter_dir": colours, "state_dir": tmp_path / "state"}
    with start_server(**options) as server:
        server.complete(model="red")
        create(server, "mine", "blue")
    write_adapter(colours / "red", b"other weights")
    (colours / "blue" / "weights").unlink()
    with start_server(**options) as server:
        for name in ("red", "mine"):
            refused = server.complete(model=name)
            assert code(refused) == (503, "adapter_unavailable")
            assert used(refused) == (name, "1")
            [version] = adapter(server, name)["versions"]
            assert version["state"] == "failed"
            assert version["reason"] in refused.json()["error"]["message"]
        assert create(server, "red", "red").status_code == 200
        assert states(server, "red") == {1: "failed", 2: "ready"}
        assert server.complete(model="red").status_code == 200
        assert server.complete(model="red@1").status_code == 503


def test_an_adapter_given_at_start_keeps_what_an_admin_did(
    start_server: StartServer, colours: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "adapters": (("mine", colours / "red"),),
        "adapter_roots": (colours,),
        "state_dir": tmp_path / "state",
    }
    with start_server(**options) as server:
        create(server, "mine", "blue")
    with start_server(**options) as server:
        assert adapter(server, "mine")["alias"]["weights"] == {"2": 1.0}
        assert states(server, "mine") == {1: "ready", 2: "ready"}
    write_adapter(colours / "red", b"a new one")
    with start_server(**options) as server:  # other content is what the operator wants now
        assert adapter(server, "mine")["alias"]["weights"] == {"3": 1.0}


def test_two_servers_do_not_share_a_registry(start_server: StartServer, tmp_path: Path) -> None:
    with (
        start_server(state_dir=tmp_path),
        pytest.raises(ConfigError, match="Another server"),
        start_server(state_dir=tmp_path),
    ):
        pass


class Script:
    """Admin calls one after another, and what the answers to them said."""

    def __init__(self, url: str, seed: int, model: dict[str, Any]) -> None:
        self._http = httpx2.Client(base_url=url, timeout=30)
        self._random = random.Random(seed)
        self.acknowledged = model
        self.doubtful: str | None = None  # the name of a call that was not answered

    def run(self) -> None:
        """Until the server is gone."""
        try:
            while True:
                self._step()
        except httpx2.HTTPError:
            return

    def _step(self) -> None:
        name = self._random.choice(["a", "b", "c"])
        verb = self._random.choice(["create", "create", "alias", "pin", "unpin", "delete", "roll"])
        self.doubtful = name
        answer = self._call(verb, name)
        if answer.status_code == 200 and verb == "delete":
            self.acknowledged.pop(name, None)
        elif answer.status_code == 200:
            self.acknowledged[name] = summary(self._http.get(f"{ADAPTERS}/{name}").json())
        self.doubtful = None

    def _call(self, verb: str, name: str) -> httpx2.Response:
        path = f"{ADAPTERS}/{name}"
        match verb:
            case "create":
                source = {"type": "path", "uri": self._random.choice(COLOURS)}
                body = {"name": name, "source": source, "wait": True}
                return self._http.post(ADAPTERS, json=body)
            case "alias":
                numbers = self._random.sample(["1", "2", "3"], 2)
                body = {"weights": {number: self._random.randint(1, 9) for number in numbers}}
                return self._http.put(f"{path}/alias", json=body)
            case "delete":
                return self._http.delete(path)
            case _:
                action = "rollback" if verb == "roll" else verb
                return self._http.post(f"{path}:{action}", json={})


def summary(shown: dict[str, Any]) -> dict[str, Any]:
    """What must outlive the process; a version that was never ready was never promised."""
    versions = {each["version"]: each["digest"] for each in shown["versions"] if each["digest"]}
    return {"versions": versions, "alias": shown["alias"], "pinned": shown["pinned"]}


@contextmanager
def served(tmp_path: Path, model_dir: Path, colours: Path) -> Iterator[ServeProcess]:
    where = ("--adapter-root", str(colours), "--state-dir", str(tmp_path / "state"))
    with motet_serve(tmp_path, str(model_dir), "--port", "0", *where) as process:
        yield process


@pytest.mark.slow
def test_after_a_kill_all_that_was_acknowledged_is_there(
    model_dir: Path, colours: Path, tmp_path: Path
) -> None:
    acknowledged: dict[str, Any] = {}
    chance = random.Random(5)
    for seed in range(4):
        with served(tmp_path, model_dir, colours) as process:
            script = Script(process.url, seed, acknowledged)
            thread = threading.Thread(target=script.run)
            thread.start()
            time.sleep(chance.uniform(0.1, 0.6))
            process.process.send_signal(signal.SIGKILL)
            thread.join(30)
            assert not thread.is_alive()
        with served(tmp_path, model_dir, colours) as process:
            listed = httpx2.get(f"{process.url}{ADAPTERS}", timeout=30).json()["data"]
            found = {each["name"]: summary(each) for each in listed}
            if script.doubtful is not None:  # it may have happened, or not
                for side in (found, acknowledged):
                    side.pop(script.doubtful, None)
            assert {name: each for name, each in found.items() if each["alias"]} == acknowledged
            # Begin the next round from what there is.
            acknowledged = {each["name"]: summary(each) for each in listed if each["alias"]}
    assert acknowledged


def test_a_load_that_the_end_interrupted_has_failed(
    start_server: StartServer, colours: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"adapter_roots": (colours,), "state_dir": tmp_path / "state"}
    with start_server(engine={"load_s": 1}, **options) as server:
        assert create(server, "mine", "red", wait=False).status_code == 202
        wait_until(lambda: server.events("LoadAdapter"))
    with start_server(**options) as server:
        [version] = adapter(server, "mine")["versions"]
        assert version["state"] == "failed"
        assert "Load it again" in version["reason"]
        assert server.complete(model="mine").status_code == 404
        assert create(server, "mine", "red").status_code == 200
        assert server.get("/v1/models/mine").json()["digest"] == digest_of(b"red")
