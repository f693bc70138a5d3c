"""Pins belong to names: they outlive reloads and restarts, and go with the name."""

from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.conftest import StartServer, write_adapter
from tests.server.fake_engine import digest_of
from tests.server.running_server import RunningServer, wait_until
from tests.server.test_cli import motet

JSON = {"Content-Type": "application/json"}


def pin(server: RunningServer, name: str, verb: str = "pin") -> httpx2.Response:
    return server.post(f"/admin/v1/adapters/{name}:{verb}", headers=JSON)


def summary(answer: httpx2.Response) -> tuple[str, str, bool]:
    body = answer.json()
    return body["name"], body["digest"], body["pinned"]


def load(server: RunningServer, name: str, path: str, **more: object) -> httpx2.Response:
    body = {"lora_name": name, "lora_path": path, **more}
    return server.post("/v1/load_lora_adapter", body)


def is_pinned(server: RunningServer, name: str) -> Any:
    return server.get(f"/v1/models/{name}").json()["pinned"]


def pins(server: RunningServer) -> Counter[str]:
    """The pins that the running engine holds, by digest."""
    pid = server.events("Started")[-1]["pid"]
    count: Counter[str] = Counter()
    for kind, change in (("PinAdapter", 1), ("UnpinAdapter", -1)):
        for event in server.events(kind):
            if event["pid"] == pid:
                count[event["digest"]] += change
    return +count


def order(server: RunningServer) -> list[str]:
    kinds = ("LoadAdapter", "PinAdapter", "UnpinAdapter", "ReleaseAdapter")
    lines = server.log.read_text().splitlines()
    return [kind for line in lines for kind in kinds if f'"kind": "{kind}"' in line]


def test_a_pin_loads_the_adapter_and_says_what_it_is(
    start_server: StartServer, adapters_dir: Path
) -> None:
    write_adapter(adapters_dir / "team" / "green", b"green")
    with start_server(adapter_dir=adapters_dir) as server:
        for name, content in (("red", b"red"), ("team/green", b"green")):
            for _ in range(2):  # a second time changes nothing
                answer = pin(server, name)
                assert answer.status_code == 200
                assert summary(answer) == (name, digest_of(content), True)
            assert is_pinned(server, name)
            assert pins(server)[digest_of(content)] == 1
        for _ in range(2):
            answer = pin(server, "red", "unpin")
            assert summary(answer) == ("red", digest_of(b"red"), False)
        assert not is_pinned(server, "red")
        wait_until(lambda: pins(server) == Counter({digest_of(b"green"): 1}))
        assert len(server.events("LoadAdapter")) == 2
        assert server.events("ReleaseAdapter") == []


def test_a_load_may_pin(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_roots=(adapters_dir,)) as server:
        assert load(server, "mine", "red", pinned=True).status_code == 200
        assert load(server, "other", "red", pinned=None).status_code == 200
        assert is_pinned(server, "mine")
        assert not is_pinned(server, "other")
        assert pins(server) == Counter({digest_of(b"red"): 1})


def test_a_replacement_is_pinned_before_the_old_version_is_let_go(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_roots=(adapters_dir,)) as server:
        load(server, "mine", "red", pinned=True)
        assert load(server, "mine", "blue", load_inplace=True).status_code == 200
        assert is_pinned(server, "mine")
        wait_until(lambda: server.events("UnpinAdapter"))
        swap = ["LoadAdapter", "PinAdapter", "UnpinAdapter"]
        assert order(server) == ["LoadAdapter", "PinAdapter", *swap]
        assert pins(server) == Counter({digest_of(b"blue"): 1})
        assert load(server, "mine", "red", load_inplace=True, pinned=False).status_code == 200
        assert not is_pinned(server, "mine")
        wait_until(lambda: pins(server) == Counter())


def test_unloading_unpins(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        pin(server, "red")
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "red"}).status_code == 200
        wait_until(lambda: server.events("ReleaseAdapter"))
        assert order(server) == ["LoadAdapter", "PinAdapter", "UnpinAdapter", "ReleaseAdapter"]
        assert pin(server, "red").status_code == 404


def test_a_refused_pin_is_a_refused_load(start_server: StartServer, adapters_dir: Path) -> None:
    """3 pages may be pinned: "red" takes them all, "blue" would take 4."""
    engine = {"max_pinned_pages": 3}
    with start_server(engine=engine, adapter_roots=(adapters_dir,)) as server:
        assert load(server, "mine", "red", pinned=True).status_code == 200
        before = server.complete("abcdefgh", model="mine").json()["choices"]
        refusals = [
            load(server, "new", "blue", pinned=True),
            load(server, "mine", "blue", load_inplace=True),
        ]
        for refused in refusals:
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (400, "pins_exceed_pool")
            assert error["param"] == "pinned"
        assert server.get("/v1/models/new").status_code == 404
        assert server.complete("abcdefgh", model="mine").json()["choices"] == before
        assert [each["digest"] for each in server.events("ReleaseAdapter")] == [
            digest_of(b"blue")
        ] * 2
        assert server.events("UnpinAdapter") == []
        assert load(server, "new", "blue").status_code == 200
        error = pin(server, "new").json()["error"]
        assert (error["code"], error["param"]) == ("pins_exceed_pool", "name")
        assert not is_pinned(server, "new")
        assert server.complete(model="new").status_code == 200


def test_what_cannot_be_pinned(start_server: StartServer, adapters_dir: Path) -> None:
    write_adapter(adapters_dir / "broken", b"bad")
    with start_server(adapter_dir=adapters_dir) as server:
        for name, status, code in (
            ("broken", 400, "invalid_adapter"),
            ("green", 404, "adapter_not_found"),
            ("tiny", 404, "adapter_not_found"),
            ("", 404, "adapter_not_found"),
        ):
            answer = pin(server, name)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (status, code, "name")
        # A page of another site can post, but not this media type.
        assert server.post("/admin/v1/adapters/red:pin").status_code == 415
        assert pins(server) == Counter()


def test_pins_come_back_with_the_engine_before_it_is_ready(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        pin(server, "red")
        pin(server, "blue")
        pin(server, "blue", "unpin")
        server.kill_engine()
        wait_until(lambda: len(server.events("Started")) == 2 and server.is_ready())
        assert pins(server) == Counter({digest_of(b"red"): 1})
        assert pin(server, "red").json()["pinned"]
        assert pins(server) == Counter({digest_of(b"red"): 1})
        pin(server, "red", "unpin")
        wait_until(lambda: pins(server) == Counter())


def test_a_pinned_adapter_that_cannot_come_back_does_not_hold_the_server_up(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        pin(server, "red")
        write_adapter(adapters_dir / "red", b"other")
        server.kill_engine()
        wait_until(lambda: len(server.events("Started")) == 2 and server.is_ready())
        assert server.complete(model="red").json()["error"]["code"] == "adapter_unavailable"
        error = pin(server, "red").json()["error"]
        assert (error["code"], error["param"]) == ("adapter_unavailable", "name")
        # Back with its first use, it is pinned as it was.
        write_adapter(adapters_dir / "red", b"red")
        assert server.complete(model="red").status_code == 200
        assert pins(server) == Counter({digest_of(b"red"): 1})


def test_a_name_is_pinned_wholly_or_not_at_all(
    start_server: StartServer, adapters_dir: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"adapter_roots": (adapters_dir,), "state_dir": tmp_path / "state"}
    with start_server(**options) as server:
        for path in ("red", "blue"):
            load(server, "both", path, load_inplace=True)
        body = {"weights": {"1": 1, "2": 1}}
        assert server.http.put("/admin/v1/adapters/both/alias", json=body).status_code == 200
        assert pin(server, "both").status_code == 200
        assert len(pins(server)) == 2
    with start_server(engine={"max_pinned_pages": 4}, **options) as server:  # one of them
        assert not is_pinned(server, "both")
        metrics = server.get("/metrics").text
        assert "motet_pages_pinned 0.0" in metrics


def test_pins_from_the_command_line(start_server: StartServer, adapters_dir: Path) -> None:
    write_adapter(adapters_dir / "team" / "green", b"green")
    with start_server(adapter_dir=adapters_dir) as server:
        where = ("--url", server.url)
        assert motet("adapters", "pin", "team/green", *where) == (
            0,
            "team/green is pinned.\n",
        )
        loading = ("adapters", "load", "red", str(adapters_dir / "red"), "--pin", *where)
        assert motet(*loading)[0] == 0
        assert is_pinned(server, "team/green")
        assert is_pinned(server, "red")
        # A replacement keeps the pin.
        again = ("adapters", "load", "red", str(adapters_dir / "blue"), *where)
        assert motet(*again)[0] == 0
        assert is_pinned(server, "red")
        status, listed = motet("adapters", "list", *where)
        assert status == 0
        assert listed.count(", pinned") == 2
        assert motet("adapters", "unpin", "red", *where)[0] == 0
        assert not is_pinned(server, "red")
        status, refused = motet("adapters", "pin", "nothing", *where)
        assert (status, "cannot be found" in refused) == (1, True)


@pytest.mark.parametrize("verb", ["pin", "unpin"])
def test_pins_wait_for_an_engine_that_is_ready(
    start_server: StartServer, adapters_dir: Path, verb: str
) -> None:
    with start_server(engine={"start_s": 1}, adapter_dir=adapters_dir) as server:
        server.kill_engine()
        wait_until(lambda: not server.is_ready())
        assert pin(server, "red", verb).status_code == 503
