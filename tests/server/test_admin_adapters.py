"""Adapters as resources: versions, aliases, rollback, deletion, over real HTTP."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest

from motet.server.adapter import MAX_VERSIONS
from tests.server.conftest import StartServer, write_adapter
from tests.server.fake_engine import digest_of
from tests.server.running_server import BASE, RunningServer, running_server, wait_until

ADAPTERS = "/admin/v1/adapters"
JSON = {"Content-Type": "application/json"}
PROMPT = [10, 11, 12, 13, 14, 15, 16, 17]


def create(server: RunningServer, name: str, uri: str, **more: object) -> httpx2.Response:
    body = {"name": name, "source": {"type": "path", "uri": uri}, "wait": True, **more}
    return server.post(ADAPTERS, body)


def adapter(server: RunningServer, name: str) -> Any:
    response = server.get(f"{ADAPTERS}/{name}")
    assert response.status_code == 200, response.text
    return response.json()


def states(server: RunningServer, name: str) -> dict[int, str]:
    return {each["version"]: each["state"] for each in adapter(server, name)["versions"]}


def alias(server: RunningServer, name: str, weights: object, **more: object) -> httpx2.Response:
    return server.http.put(f"{ADAPTERS}/{name}/alias", json={"weights": weights, **more})


def delete(server: RunningServer, name: str, **params: object) -> httpx2.Response:
    return server.http.delete(f"{ADAPTERS}/{name}", params=params)  # type: ignore[arg-type]


def post(server: RunningServer, name: str, verb: str) -> httpx2.Response:
    return server.post(f"{ADAPTERS}/{name}:{verb}", headers=JSON)


def code(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def used(response: httpx2.Response) -> tuple[str, str | None]:
    headers = response.headers
    return headers["x-adapter-id"], headers.get("x-adapter-version")


def held(server: RunningServer) -> Counter[str]:
    """What the engine holds, by path."""
    count: Counter[str] = Counter()
    for event in server.events("LoadAdapter"):
        if (Path(event["path"]) / "weights").read_bytes() != b"bad":
            count[Path(event["path"]).name] += 1
    for event in server.events("ReleaseAdapter"):
        count[Path(event["path"]).name] -= 1
    return +count


@pytest.fixture
def colours(adapters_dir: Path) -> Path:
    for name in ("green", "pink"):
        write_adapter(adapters_dir / name, name.encode())
    write_adapter(adapters_dir / "broken", b"bad")
    return adapters_dir


def test_versions_are_numbered_and_each_can_be_asked_for(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(adapter_roots=(colours,)) as server:
        for uri in ("red", "blue"):
            assert create(server, "mine", uri).status_code == 200
        shown = adapter(server, "mine")
        assert [each["digest"] for each in shown["versions"]] == [
            digest_of(b"red"),
            digest_of(b"blue"),
        ]
        assert shown["alias"]["weights"] == {"2": 1.0}
        assert shown["versions"][0]["source"] == {"type": "path", "uri": "red", "revision": None}
        for model, version, content in (
            ("mine", "2", b"blue"),
            ("mine@1", "1", b"red"),
            ("mine@v1", "1", b"red"),
            (f"{BASE}:mine@2", "2", b"blue"),
        ):
            response = server.complete(PROMPT, model=model)
            assert used(response) == ("mine", version)
            assert server.events("AddRequest")[-1]["digest"] == digest_of(content)
            assert response.json()["model"] == model
        assert server.get("/v1/models/mine@1").json()["digest"] == digest_of(b"red")
        listed = [each["id"] for each in server.get("/v1/models").json()["data"]]
        assert listed == [BASE, "mine"]
        for model in ("mine@3", "mine@0", "mine@", "mine@v", "mine@-1", "mine@01", "mine@1@1"):
            assert code(server.complete(model=model)) == (404, "model_not_found")


def test_the_headers_say_who_answered(start_server: StartServer, colours: Path) -> None:
    with start_server(adapter_dir=colours) as server:
        assert used(server.complete()) == (BASE, None)
        assert used(server.complete(model="red", stream=True)) == ("red", "1")
        failed = server.complete([7], model="red")
        assert failed.status_code == 500
        assert used(failed) == ("red", "1")
        assert "x-adapter-id" not in server.complete(model="nothing").headers
        assert "x-adapter-id" not in server.get("/v1/models").headers


def test_content_that_is_known_is_no_new_version(start_server: StartServer, colours: Path) -> None:
    with start_server(adapter_roots=(colours,)) as server:
        for uri in ("red", "red", "blue", "red"):
            response = create(server, "mine", uri)
            assert response.status_code == 200
        operation = response.json()["operation"]
        assert (operation["state"], operation["version"]) == ("succeeded", 1)
        assert states(server, "mine") == {1: "ready", 2: "ready"}
        assert adapter(server, "mine")["alias"]["weights"] == {"1": 1.0}
        # By its digest it need not even be read.
        num_loads = len(server.events("LoadAdapter"))
        again = create(server, "mine", "green", sha256=digest_of(b"blue"), wait=False)
        assert again.status_code == 200
        assert adapter(server, "mine")["alias"]["weights"] == {"2": 1.0}
        assert len(server.events("LoadAdapter")) == num_loads
        assert held(server) == Counter(red=1, blue=1)


def test_what_is_refused_leaves_the_old_version(start_server: StartServer, colours: Path) -> None:
    with start_server(adapter_roots=(colours,)) as server:
        create(server, "mine", "red")
        outside = str(colours.parent / "outside")
        for more, expected in (
            ({"uri": "broken"}, (400, "invalid_adapter")),
            ({"uri": "nothing"}, (404, "adapter_not_found")),
            ({"uri": outside}, (403, "path_not_allowed")),
            ({"uri": "blue", "sha256": "0" * 64}, (400, "digest_mismatch")),
        ):
            assert code(create(server, "mine", **more)) == expected  # type: ignore[arg-type]
        assert adapter(server, "mine")["alias"]["weights"] == {"1": 1.0}
        assert used(server.complete(model="mine")) == ("mine", "1")
        assert held(server) == Counter(red=1)
        failed = adapter(server, "mine")["versions"][-1]
        assert (failed["state"], "not 0000" in failed["reason"]) == ("failed", True)
        assert code(server.complete(model=f"mine@{failed['version']}"))[0] == 404
        assert code(alias(server, "mine", {failed["version"]: 1})) == (409, "version_not_ready")
        # A name that has nothing but failures is not taken.
        create(server, "other", "broken")
        body = {"lora_name": "other", "lora_path": "red"}
        assert server.post("/v1/load_lora_adapter", body).status_code == 200
        # The next attempt takes its place.
        assert create(server, "mine", "blue").status_code == 200
        assert [each["state"] for each in adapter(server, "mine")["versions"]] == ["ready"] * 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "mine"}, "source"),
        ({"name": "../x"}, "name"),
        ({"name": BASE}, "name"),
        ({"name": "a@1"}, "name"),
        ({"source": {"type": "http", "uri": "x"}}, "source.type"),
        ({"source": {"type": "path", "uri": ""}}, "source.uri"),
        ({"source": {"type": "path", "uri": "red", "more": 1}}, "source.more"),
        ({"sha256": "abc"}, "sha256"),
        ({"pins": True}, "pins"),
        ({"wait": 1}, "wait"),
    ],
)
def test_bodies_are_checked(server: RunningServer, body: dict[str, object], param: str) -> None:
    whole = {"name": "mine", "source": {"type": "path", "uri": "red"}, **body}
    if body == {"name": "mine"}:
        del whole["source"]
    response = server.post(ADAPTERS, whole)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_load_that_nobody_waits_for_can_be_asked_about(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(engine={"load_s": 0.3}, adapter_roots=(colours,)) as server:
        answers = {uri: create(server, uri, uri, wait=False) for uri in ("red", "broken")}
        assert {each.status_code for each in answers.values()} == {202}
        operations = {uri: each.json()["operation"] for uri, each in answers.items()}
        assert operations["red"]["state"] == "running"
        assert server.complete(model="red").status_code == 404

        def ended(uri: str) -> Any:
            operation = server.get(f"/admin/v1/operations/{operations[uri]['id']}").json()
            return operation if operation["state"] != "running" else None

        for uri in operations:
            wait_until(lambda uri=uri: ended(uri))  # type: ignore[misc]
        assert ended("red")["state"] == "succeeded"
        assert ended("broken")["error"]["code"] == "invalid_adapter"
        assert states(server, "broken") == {1: "failed"}
        assert server.complete(model="red").status_code == 200
        assert code(server.get("/admin/v1/operations/nothing")) == (404, "operation_not_found")


def test_a_canary_is_sticky_and_flips_are_atomic(start_server: StartServer, colours: Path) -> None:
    with start_server(adapter_roots=(colours,)) as server:
        create(server, "mine", "red")
        create(server, "mine", "blue", activate=False)
        assert adapter(server, "mine")["alias"]["weights"] == {"1": 1.0}
        etag = adapter(server, "mine")["alias"]["etag"]
        canary = alias(server, "mine", {"1": 0.7, "v2": 0.3}, if_match=etag)
        assert canary.status_code == 200
        assert canary.json()["alias"]["weights"] == {"1": 0.7, "2": 0.3}
        assert code(alias(server, "mine", {"2": 1}, if_match=etag)) == (412, "alias_changed")

        def versions() -> dict[str, str | None]:
            return {
                user: used(server.complete(model="mine", user=user, max_tokens=1))[1]
                for user in (f"user-{index}" for index in range(60))
            }

        first = versions()
        assert first == versions()
        assert 5 <= Counter(first.values())["2"] <= 35
        # Who had the canary keeps it while it grows.
        alias(server, "mine", {"1": 1, "2": 1})
        second = versions()
        assert all(second[user] == "2" for user, version in first.items() if version == "2")
        for expected in ({"1": 0.7, "2": 0.3}, {"1": 1.0}):
            assert post(server, "mine", "rollback").json()["alias"]["weights"] == expected
        assert code(post(server, "mine", "rollback")) == (409, "nothing_to_roll_back")


@pytest.mark.parametrize(
    "weights", [{}, {"1": 0}, {"1": -1}, {"1": 1e308}, {"x": 1}, {"1": 1, "v1": 1}, [], 1]
)
def test_weights_are_checked(server: RunningServer, weights: object) -> None:
    response = alias(server, "red", weights)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("weights")


def test_an_alias_of_versions_that_there_are_not(server: RunningServer) -> None:
    assert code(alias(server, "red", {"9": 1})) == (404, "version_not_found")
    assert code(alias(server, "nothing", {"1": 1})) == (404, "adapter_not_found")


def test_a_rollback_heeds_its_etag_also_in_a_body_of_unknown_length(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(adapter_roots=(colours,)) as server:
        create(server, "mine", "red")
        create(server, "mine", "blue")
        body = iter([b'{"if_match": ', b'"nope"}'])
        response = server.post(f"{ADAPTERS}/mine:rollback", content=body, headers=JSON)
        assert code(response) == (412, "alias_changed")
        assert adapter(server, "mine")["alias"]["weights"] == {"2": 1.0}


def test_deleting_waits_for_running_requests_and_refuses_new_ones(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(engine={"step_s": 0.02}, adapter_roots=(colours,)) as server:
        create(server, "mine", "red")
        create(server, "mine", "blue")
        before = server.complete(PROMPT, model="mine@1", max_tokens=60).json()
        answers: list[httpx2.Response] = []
        running = threading.Thread(
            target=lambda: answers.append(server.complete(PROMPT, model="mine@1", max_tokens=60))
        )
        running.start()
        wait_until(lambda: len(server.events("AddRequest")) == 2)
        assert adapter(server, "mine")["versions"][0]["users"] == 1
        deleting = threading.Thread(target=lambda: answers.append(delete(server, "mine@1")))
        deleting.start()
        wait_until(lambda: states(server, "mine")[1] == "draining")
        assert server.complete(model="mine@1").status_code == 404
        assert held(server) == Counter(red=1, blue=1)
        running.join(30)
        deleting.join(30)
        completed, deleted = answers
        assert completed.json()["choices"] == before["choices"]
        assert deleted.json() == {
            "name": "mine",
            "version": 1,
            "deleted": True,
            "drained": True,
        }
        assert states(server, "mine") == {2: "ready"}
        assert code(post(server, "mine", "rollback")) == (409, "nothing_to_roll_back")
        wait_until(lambda: held(server) == Counter(blue=1))


def test_a_drain_that_takes_too_long_ends_no_request(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(engine={"step_s": 0.02}, adapter_roots=(colours,)) as server:
        create(server, "mine", "red")
        body = {"model": "mine", "prompt": PROMPT, "max_tokens": 50, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as response:
            deleted = delete(server, "mine", drain_timeout_s=0)
            assert deleted.json()["drained"] is False
            assert code(server.get(f"{ADAPTERS}/mine"))[0] == 404
            lines = [line for line in response.iter_lines() if line]
        assert len(lines) == 51
        assert lines[-1] == "data: [DONE]"
        wait_until(lambda: held(server) == Counter())


def test_a_base_model_of_any_name_is_said_in_a_header(model_dir: Path, tmp_path: Path) -> None:
    name = "modèle 模\r\nx: y"
    config = {"model_name": name}
    with running_server(model_dir, tmp_path / "log", config=config) as server:
        response = server.complete(model=name)
        assert response.status_code == 200
        assert unquote(response.headers["x-adapter-id"]) == name
        assert "x" not in response.headers


def test_what_an_alias_names_is_deleted_only_by_force(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(adapter_roots=(colours,)) as server:
        for uri in ("red", "blue"):
            create(server, "mine", uri)
        alias(server, "mine", {"1": 1, "2": 1})
        assert code(delete(server, "mine@2")) == (409, "adapter_in_use")
        assert delete(server, "mine@2", force="true").status_code == 200
        assert adapter(server, "mine")["alias"]["weights"] == {"1": 1.0}
        assert delete(server, "mine@1", force="true", drain_timeout_s=0).status_code == 200
        assert code(server.get(f"{ADAPTERS}/mine")) == (404, "adapter_not_found")
        assert code(delete(server, "mine")) == (404, "adapter_not_found")
        for params in ({"force": "maybe"}, {"drain_timeout_s": "-1"}, {"drain_timeout_s": "nan"}):
            assert delete(server, "mine", **params).status_code == 400
        wait_until(lambda: held(server) == Counter())
        # The name begins anew.
        create(server, "mine", "green")
        assert states(server, "mine") == {1: "ready"}


def test_warming_brings_to_the_device_without_a_pin(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(engine={"max_pinned_pages": 3}, adapter_dir=colours) as server:
        assert adapter(server, "red")["versions"][0]["tier"] == "disk"
        assert states(server, "red") == {1: "pending"}
        assert post(server, "red", "warm").status_code == 200
        assert adapter(server, "red")["versions"][0]["tier"] == "device"
        assert not adapter(server, "red")["pinned"]
        # Where pins may take no more, it comes as far as host memory.
        assert post(server, "blue", "warm").status_code == 200
        assert adapter(server, "blue")["versions"][0]["tier"] == "host"
        assert create(server, "red2", "red", warm=True, pin=True).json()["operation"]
        assert adapter(server, "red2")["pinned"]


def test_what_is_known_by_its_digest_is_warmed_too(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(adapter_roots=(colours,)) as server:
        for uri in ("red", "blue", "green"):
            create(server, "mine", uri)
        assert states(server, "mine")[1] == "evicted"
        digest = digest_of(b"red")
        create(server, "mine", "red", sha256=digest, activate=False, warm=True)
        shown = adapter(server, "mine")
        assert shown["versions"][0]["tier"] == "device"
        assert shown["alias"]["weights"] == {"3": 1.0}


def test_a_name_in_the_directory_becomes_a_version_like_any(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(adapter_dir=colours) as server:
        assert adapter(server, "red")["versions"][0]["source"]["type"] == "directory"
        create(server, "red", "blue", activate=False)
        assert states(server, "red") == {1: "pending", 2: "ready"}
        assert server.complete(model="red").status_code == 200
        assert states(server, "red") == {1: "ready", 2: "ready"}
        assert delete(server, "red").status_code == 200
        assert server.complete(model="red").status_code == 404
        assert create(server, "red", "red").status_code == 200


def test_many_changes_leave_nothing_behind(start_server: StartServer, colours: Path) -> None:
    with start_server(adapter_roots=(colours,)) as server:
        for _ in range(20):
            for uri in ("red", "blue", "green"):
                assert create(server, "mine", uri).status_code == 200
            post(server, "mine", "rollback")
            assert delete(server, "mine").status_code == 200
        wait_until(lambda: held(server) == Counter())
        assert server.started.registry.records.catalogue.all() == []


def test_the_oldest_versions_that_nothing_means_go(
    start_server: StartServer, adapters_dir: Path, tmp_path: Path
) -> None:
    """As a training loop makes them; a version that is named, or used, stays."""
    num_loads = MAX_VERSIONS + 6
    for number in range(1, num_loads + 1):
        write_adapter(adapters_dir / f"step-{number}", b"x" * number)
    options: dict[str, Any] = {"adapter_roots": (adapters_dir,), "state_dir": tmp_path / "state"}
    with start_server(engine={"step_s": 0.02}, **options) as server:
        create(server, "mine", "step-1")
        create(server, "mine", "step-2")
        body = {"model": "mine@2", "prompt": "abc", "max_tokens": 400, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as running:
            assert running.status_code == 200
            for number in range(3, num_loads + 1):
                assert create(server, "mine", f"step-{number}").status_code == 200
            kept = list(states(server, "mine"))
        assert len(kept) == MAX_VERSIONS
        assert kept[0] == 2  # a request runs on it
        assert kept[1] > 6
        assert kept[-1] == num_loads
        assert used(server.complete(model="mine")) == ("mine", str(num_loads))
        assert server.complete(model="mine@3").status_code == 404
        assert post(server, "mine", "rollback").status_code == 200
        assert used(server.complete(model="mine")) == ("mine", str(num_loads - 1))
    with start_server(**options) as server:
        assert list(states(server, "mine")) == kept


def test_sglang_s_endpoints_answer_as_it_does(start_server: StartServer, colours: Path) -> None:
    with start_server(adapter_roots=(colours,)) as server:
        body = {"lora_name": "mine", "lora_path": "red", "pinned": True}
        loaded = server.post("/load_lora_adapter", body)
        assert loaded.status_code == 200
        where = {"mine": str(colours / "red")}
        assert loaded.json() == {"success": True, "error_message": "", "loaded_adapters": where}
        again = server.post("/load_lora_adapter", body)
        assert (again.status_code, again.json()["success"]) == (400, False)
        assert "already been loaded" in again.json()["error_message"]
        assert again.json()["loaded_adapters"] == where
        missing = server.post("/unload_lora_adapter", {"lora_name": "other"})
        assert (missing.status_code, missing.json()["success"]) == (400, False)
        gone = server.post("/unload_lora_adapter", {"lora_name": "mine"})
        assert gone.json() == {"success": True, "error_message": "", "loaded_adapters": {}}
        wait_until(lambda: held(server) == Counter())
