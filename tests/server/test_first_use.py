"""Adapters that are named by their folders, and loaded by the first request that uses them."""

import json
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from motet.server import adapter_dir as adapter_dir_module
from tests.server.conftest import StartServer, write_adapter
from tests.server.fake_engine import digest_of
from tests.server.running_server import BASE, RunningServer, wait_until

USER = {"role": "user", "content": "hello"}


def ids(server: RunningServer) -> list[str]:
    return [model["id"] for model in server.get("/v1/models").json()["data"]]


def error_of(server: RunningServer, model: str) -> tuple[int, str, str]:
    response = server.complete(model=model)
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def at_once(work: list[threading.Thread]) -> None:
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(30)


def test_names_cost_nothing_until_they_are_used(
    start_server: StartServer, adapters_dir: Path
) -> None:
    (adapters_dir / "no-adapter").mkdir()
    (adapters_dir / "a file").write_text("")
    write_adapter(adapters_dir / "not a name", b"x")
    write_adapter(adapters_dir / BASE, b"x")
    with start_server(adapter_dir=adapters_dir) as server:
        assert ids(server) == [BASE, "blue", "red"]
        unread = server.get("/v1/models/red").json()
        for field in ("digest", "max_rank", "num_pages"):
            assert unread[field] is None
        assert unread["root"] == str(adapters_dir / "red")
        assert unread["pinned"] is False
        assert server.events("LoadAdapter") == []
        assert server.complete(model="red").status_code == 200
        assert [each["path"] for each in server.events("LoadAdapter")] == [
            str(adapters_dir / "red")
        ]
        assert server.get("/v1/models/red").json()["digest"] == digest_of(b"red")
        assert server.get("/v1/models/blue").json()["digest"] is None


@pytest.mark.slow
def test_ten_thousand_names_are_known_without_a_word_to_the_engine(
    start_server: StartServer, tmp_path: Path
) -> None:
    for index in range(10_000):
        folder = tmp_path / "many" / f"a{index:05}"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").touch()
    write_adapter(tmp_path / "many" / "a07777", b"weights")
    with start_server(adapter_dir=tmp_path / "many") as server:
        assert len(ids(server)) == 10_001
        assert server.events("LoadAdapter") == []
        assert server.complete(model="a07777").status_code == 200
        assert len(server.events("LoadAdapter")) == 1


def test_requests_that_come_together_wait_for_one_load(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(engine={"load_s": 0.3}, adapter_dir=adapters_dir) as server:
        statuses: list[int] = []

        def complete(model: str) -> None:
            statuses.append(server.complete(model=model).status_code)

        def chat() -> None:
            body = {"model": "red", "messages": [USER], "max_tokens": 2}
            statuses.append(server.post("/v1/chat/completions", body).status_code)

        models = ["red", f"{BASE}:red"] * 4
        work = [threading.Thread(target=complete, args=(each,)) for each in models]
        at_once([*work, *(threading.Thread(target=chat) for _ in range(4))])
        assert statuses == [200] * 12
        assert len(server.events("LoadAdapter")) == 1
        assert {each["digest"] for each in server.events("AddRequest")} == {digest_of(b"red")}


def test_others_go_on_during_a_load(start_server: StartServer, adapters_dir: Path) -> None:
    """The fake engine stands still while it loads; this is about the API process alone."""
    with start_server(engine={"load_s": 0.5}, adapter_dir=adapters_dir) as server:
        loading = threading.Thread(target=lambda: server.complete(model="red"))
        loading.start()
        wait_until(lambda: server.events("LoadAdapter"))
        assert server.complete().status_code == 200
        assert server.complete(model="green").status_code == 404
        loading.join(30)


def test_a_client_that_leaves_breaks_the_load_for_nobody(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(engine={"load_s": 0.5}, adapter_dir=adapters_dir) as server:
        address = urlsplit(server.url)
        body = json.dumps({"model": "red", "prompt": "abc"}).encode()
        with socket.create_connection((address.hostname, address.port), timeout=10) as leaving:
            leaving.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            wait_until(lambda: server.events("LoadAdapter"))
        assert server.complete(model="red").status_code == 200
        assert len(server.events("LoadAdapter")) == 1
        assert server.events("ReleaseAdapter") == []
        # The one that left was never given to the engine.
        assert len(server.events("AddRequest")) == 1
        wait_until(lambda: 'model="red",status="499"' in server.get("/metrics").text)


def test_a_refused_checkpoint_is_the_error_of_its_own_requests(
    start_server: StartServer, adapters_dir: Path
) -> None:
    write_adapter(adapters_dir / "broken", b"bad")
    with start_server(adapter_dir=adapters_dir) as server:
        response = server.complete(model="broken", stream=True)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "invalid_adapter")
        assert error["param"] == "model"
        assert "'broken'" in error["message"]
        assert "bad weights" in error["message"]
        assert server.complete(model="red").status_code == 200
        assert "broken" in ids(server)
        # Its files are mended, so the next request is served.
        write_adapter(adapters_dir / "broken", b"good")
        assert server.complete(model="broken").status_code == 200
        (adapters_dir / "blue" / "adapter_config.json").unlink()
        (adapters_dir / "blue" / "weights").unlink()
        (adapters_dir / "blue").rmdir()
        assert error_of(server, "blue") == (404, "adapter_not_found", "model")


def test_an_adapter_that_was_written_later_is_found(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        write_adapter(adapters_dir / "team" / "green", b"green")
        for model in ("team/green", f"{BASE}:team/green"):
            assert server.complete(model=model).status_code == 200
        assert ids(server) == [BASE, "blue", "red", "team/green"]
        write_adapter(adapters_dir / "pink", b"pink")
        assert server.get("/v1/models/pink").json()["id"] == "pink"
        assert len(server.events("LoadAdapter")) == 1


def test_a_miss_is_remembered_for_a_while_and_then_found(
    start_server: StartServer, adapters_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_dir_module, "MISS_LIFETIME_S", 1.0)
    with start_server(adapter_dir=adapters_dir) as server:
        assert error_of(server, "green") == (404, "model_not_found", "model")
        write_adapter(adapters_dir / "green", b"green")
        assert server.complete(model="green").status_code == 404
        wait_until(lambda: server.complete(model="green").status_code == 200)


def test_what_is_no_name_or_lies_elsewhere_is_not_found(
    start_server: StartServer, adapters_dir: Path
) -> None:
    outside = adapters_dir.parent / "outside"
    write_adapter(outside, b"outside")
    (adapters_dir / "link-at-start").symlink_to(outside)
    with start_server(adapter_dir=adapters_dir) as server:
        (adapters_dir / "link").symlink_to(outside)
        for model in (
            *("link", "link-at-start", "../outside", str(outside), "red/../../outside"),
            *("./red", "red/", "red/.", "a//b", "", "red\0", "x" * 200, f"{BASE}:{BASE}", "."),
        ):
            assert server.complete(model=model).status_code in (400, 404), model
        assert ids(server) == [BASE, "blue", "red"]
        assert server.events("LoadAdapter") == []


def test_a_link_into_another_root_is_followed(
    start_server: StartServer, adapters_dir: Path
) -> None:
    outside = adapters_dir.parent / "outside"
    write_adapter(outside / "green", b"green")
    (adapters_dir / "green").symlink_to(outside / "green")
    with start_server(adapter_dir=adapters_dir, adapter_roots=(outside,)) as server:
        assert "green" in ids(server)
        assert server.complete(model="green").status_code == 200


def test_an_unloaded_name_stays_away_until_it_is_loaded_again(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        server.complete(model="red")
        for name in ("red", "blue"):  # one that was read, and one that was not
            unloaded = server.post("/v1/unload_lora_adapter", {"lora_name": name})
            assert unloaded.status_code == 200
            assert error_of(server, name) == (404, "model_not_found", "model")
        assert ids(server) == [BASE]
        wait_until(lambda: server.events("ReleaseAdapter"))
        [released] = server.events("ReleaseAdapter")
        assert released["digest"] == digest_of(b"red")
        assert released["path"] == str(adapters_dir / "red")
        body = {"lora_name": "red", "lora_path": "red"}
        assert server.post("/v1/load_lora_adapter", body).status_code == 200
        assert server.complete(model="red").status_code == 200
        assert server.complete(model="blue").status_code == 404


def test_an_unused_name_is_loaded_from_where_it_lies_or_replaced(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        body: dict[str, object] = {"lora_name": "red", "lora_path": "blue"}
        refused = server.post("/v1/load_lora_adapter", body).json()
        assert refused["error"]["code"] == "adapter_already_loaded"
        assert server.post("/v1/load_lora_adapter", body | {"lora_path": "red"}).status_code == 200
        body = {"lora_name": "blue", "lora_path": "red", "load_inplace": True}
        assert server.post("/v1/load_lora_adapter", body).status_code == 200
        assert server.get("/v1/models/blue").json()["digest"] == digest_of(b"red")
        assert server.events("ReleaseAdapter") == []


def test_a_name_that_is_given_goes_before_a_folder(
    start_server: StartServer, adapters_dir: Path
) -> None:
    given = (("red", adapters_dir / "blue"),)
    with start_server(adapters=given, adapter_dir=adapters_dir) as server:
        assert ids(server) == [BASE, "red", "blue"]
        assert server.get("/v1/models/red").json()["digest"] == digest_of(b"blue")


def test_an_adapter_that_cannot_be_brought_back_is_worth_another_try(
    server: RunningServer,
) -> None:
    response = server.complete([8], model="red")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (503, "adapter_unavailable")
    assert error["type"] == "server_error"
    assert int(response.headers["retry-after"]) > 0
