"""Compositions with a name: versions that are made of versions of others. Over real HTTP."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from motet.core.composition import composition_digest
from motet.core.messages import WeightedAdapter
from motet.server.adapter import MAX_VERSIONS
from motet.server.principal import Role
from tests.server.conftest import StartServer, write_adapter
from tests.server.fake_engine import digest_of
from tests.server.running_server import BASE, RunningServer, wait_until
from tests.server.some_keys import bearer, some_key, write_keys
from tests.server.test_admin_adapters import (
    ADAPTERS,
    adapter,
    alias,
    code,
    create,
    delete,
    held,
    post,
    states,
    used,
)
from tests.server.test_cli import motet_serve

RED, BLUE, GREEN = (digest_of(name) for name in (b"red", b"blue", b"green"))


@pytest.fixture
def colours(adapters_dir: Path) -> Path:
    write_adapter(adapters_dir / "green", b"green")
    return adapters_dir


@pytest.fixture
def served(start_server: StartServer, colours: Path) -> Iterator[RunningServer]:
    with start_server(adapter_dir=colours, adapter_roots=(colours,)) as server:
        yield server


def body_of(name: str, parts: dict[str, float], **more: object) -> dict[str, Any]:
    return {"name": name, "source": {"type": "composition", "parts": parts}, "wait": True, **more}


def compose(
    server: RunningServer, name: str, parts: dict[str, float], **more: object
) -> httpx2.Response:
    return server.post(ADAPTERS, body_of(name, parts, **more))


def digest(parts: dict[str, float]) -> str:
    return composition_digest([WeightedAdapter(*part) for part in parts.items()])


def asked_for(server: RunningServer) -> tuple[str | None, dict[str, float]]:
    request = server.events("AddRequest")[-1]
    return request["digest"], {part["digest"]: part["weight"] for part in request["parts"]}


def unpinned(server: RunningServer) -> set[str]:
    return {event["digest"] for event in server.events("UnpinAdapter")}


def test_a_name_for_adapters_with_weights(served: RunningServer) -> None:
    made = compose(served, "blend", {"red": 0.7, "blue@1": -0.3})
    assert made.status_code == 200, made.text
    assert made.json()["operation"]["state"] == "succeeded"
    [shown] = adapter(served, "blend")["versions"]
    parts = {RED: 0.7, BLUE: -0.3}
    expected = {
        "id": "blend@1",
        "state": "ready",
        "digest": digest(parts),
        "source": {"type": "composition", "uri": "red@1+blue@1", "revision": None},
        "composition": {"red@1": 0.7, "blue@1": -0.3},
        "max_rank": 16,
        "modules": ["q", "v"],
        "num_parameters": 2000,
        "num_pages": len(b"red") + len(b"blue"),
        "tier": "host",
    }
    assert {field: shown[field] for field in expected} == expected
    answer = served.complete(model="blend")
    assert used(answer) == ("blend", "1")
    assert asked_for(served) == (digest(parts), parts)
    assert adapter(served, "blend")["versions"][0]["tier"] == "device"
    model = served.get("/v1/models/blend").json()
    assert model["composition"] == {"red@1": 0.7, "blue@1": -0.3}
    assert model["digest"] == digest(parts)
    assert served.get("/v1/models/red").json()["composition"] is None
    # The same, spelt out, shares all that is cached of it.
    served.complete(lora={"blue": -0.3, "red": 0.7})
    assert asked_for(served) == (digest(parts), parts)
    assert 'model="blend"' in served.get("/metrics").text


def test_its_parts_stay_what_they_were(served: RunningServer) -> None:
    create(served, "mine", "red")
    compose(served, "blend", {"mine": 0.5, "blue": 1})
    create(served, "mine", "green")
    assert served.complete(model="mine").status_code == 200
    served.complete(model="blend")
    assert asked_for(served)[1] == {RED: 0.5, BLUE: 1.0}
    again = compose(served, "blend", {"mine": 0.5, "blue": 1})
    assert again.json()["operation"]["version"] == 2
    served.complete(model="blend")
    assert asked_for(served)[1] == {GREEN: 0.5, BLUE: 1.0}
    served.complete(model="blend@1")
    assert asked_for(served)[1] == {RED: 0.5, BLUE: 1.0}
    same = compose(served, "blend", {"blue": 1, "mine@1": 0.5})
    assert same.json()["operation"]["version"] == 1
    assert states(served, "blend") == {1: "ready", 2: "ready"}


def test_of_a_canary_it_gets_what_most_requests_get(served: RunningServer) -> None:
    create(served, "mine", "red")
    create(served, "mine", "green", activate=False)
    alias(served, "mine", {"1": 9, "2": 1})
    compose(served, "blend", {"mine": 0.5})
    assert adapter(served, "blend")["versions"][0]["composition"] == {"mine@1": 0.5}


def test_aliases_pins_and_warming_work_on_it(served: RunningServer) -> None:
    create(served, "mine", "green")
    assert compose(served, "mine", {"red": 0.5, "blue": 2}, pin=True).status_code == 200
    assert len(served.events("PinAdapter")) == 2
    alias(served, "mine", {"1": 1, "2": 3})
    rolled = post(served, "mine", "rollback").json()
    assert rolled["digest"] == digest({RED: 0.5, BLUE: 2.0})
    assert post(served, "mine", "unpin").status_code == 200
    wait_until(lambda: unpinned(served) == {RED, BLUE, GREEN})
    assert post(served, "mine", "warm").status_code == 200
    assert adapter(served, "mine")["versions"][1]["tier"] == "device"
    assert post(served, "mine", "rollback").status_code == 200
    served.complete(model="mine")
    assert asked_for(served) == (GREEN, {})


def test_a_pin_is_for_all_parts_or_none(start_server: StartServer, colours: Path) -> None:
    engine = {"max_pinned_pages": len(b"red")}
    with start_server(adapter_dir=colours, engine=engine) as server:
        refused = compose(server, "blend", {"red": 0.5, "blue": 2}, pin=True)
        assert code(refused) == (400, "pins_exceed_pool")
        wait_until(lambda: unpinned(server) == {RED})
        # Which the parts' own versions hold.
        wait_until(lambda: held(server) == {"red": 1, "blue": 1})
        assert server.complete(model="blend").status_code == 404


@pytest.mark.parametrize("force", [False, True])
def test_what_it_is_made_of_cannot_be_deleted(served: RunningServer, force: bool) -> None:
    create(served, "mine", "red")
    create(served, "mine", "green")
    compose(served, "blend", {"mine@1": 0.5, "blue": 1})
    for name in ("mine", "mine@1", "blue", "blue@1"):
        refused = delete(served, name, force=force)
        assert code(refused) == (409, "adapter_in_use")
        if force or "@" not in name or name == "mine@1":
            assert "'blend@1'" in refused.json()["error"]["message"]
    unloaded = served.post("/v1/unload_lora_adapter", {"lora_name": "mine"})
    assert code(unloaded) == (409, "adapter_in_use")
    assert delete(served, "mine@2", force=True).status_code == 200
    assert served.complete(model="mine@1+blend").status_code == 400
    assert delete(served, "blend").json()["drained"] is True
    assert delete(served, "mine").status_code == 200
    assert delete(served, "blue").status_code == 200
    wait_until(lambda: held(served) == {})


def test_a_training_loop_does_not_push_its_parts_out(
    start_server: StartServer, tmp_path: Path
) -> None:
    for index in range(MAX_VERSIONS + 2):
        write_adapter(tmp_path / "loop" / str(index), f"step {index}".encode())
    with start_server(adapter_roots=(tmp_path / "loop",)) as server:
        create(server, "mine", "0")
        create(server, "mine", "1")
        compose(server, "blend", {"mine@1": 0.5})
        for index in range(2, MAX_VERSIONS + 2):
            create(server, "mine", str(index))
        assert 1 in states(server, "mine")
        assert 2 not in states(server, "mine")
        assert server.complete(model="blend").status_code == 200


def test_a_deleted_one_goes_on_for_those_who_use_it(
    start_server: StartServer, colours: Path
) -> None:
    with start_server(adapter_dir=colours, engine={"step_s": 0.02}) as server:
        compose(server, "blend", {"red": 0.5, "blue": 1})
        body = {"model": "blend", "prompt": "abc", "max_tokens": 40, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert adapter(server, "red")["versions"][0]["users"] == 1
            assert delete(server, "blend", drain_timeout_s=0).json()["drained"] is False
            assert delete(server, "red", drain_timeout_s=0).json()["drained"] is False
            assert any("[DONE]" in line for line in lines)


@pytest.mark.parametrize(
    ("parts", "expected", "message"),
    [
        ({"none": 1}, (400, "invalid_value"), "that adapter itself"),
        ({"none": 0.5}, (404, "model_not_found"), "'none'"),
        ({"red": 1, "none@1": 1}, (404, "model_not_found"), "'none@1'"),
        ({"red": 1, "red@9": 1}, (404, "model_not_found"), "'red@9'"),
        ({BASE: 0.5}, (400, "invalid_value"), "base model"),
        ({"red": 1}, (400, "invalid_value"), "that adapter itself"),
        ({"red": 1, "red@1": 1}, (400, "invalid_value"), "named twice"),
        ({"red": 1, "blue": 0}, (400, "invalid_value"), "but not 0"),
        ({"mix": 1, "red": 1}, (400, "invalid_value"), "is a composition itself"),
        ({}, (400, "invalid_value"), "1 to 8"),
        (dict.fromkeys("abcdefghi", 1), (400, "invalid_value"), "1 to 8"),
        ({"red": "1"}, (400, "invalid_type"), "numbers"),
    ],
    ids=str,
)
def test_what_cannot_be_composed_gets_no_name(
    server: RunningServer, parts: Any, expected: tuple[int, str], message: str
) -> None:
    compose(server, "mix", {"red": 0.5, "blue": 0.5})
    refused = compose(server, "new", parts)
    assert code(refused) == expected
    assert message in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == "source.parts"
    assert server.get(f"{ADAPTERS}/new").status_code == 404


def test_it_has_a_name_of_its_own(server: RunningServer) -> None:
    refused = compose(server, "red", {"red": 0.5})
    assert code(refused) == (400, "invalid_value")
    for source in (
        {"type": "composition"},
        {"type": "composition", "parts": {"red": 2}, "uri": "red"},
        {"type": "path", "uri": "red", "parts": {"red": 2}},
    ):
        answer = server.post(ADAPTERS, {"name": "new", "source": source})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith("source.")
    other = compose(server, "new", {"red": 2}, sha256="0" * 64)
    assert code(other) == (400, "digest_mismatch")


def test_a_part_whose_files_changed_fails_it(served: RunningServer, colours: Path) -> None:
    compose(served, "blend", {"red": 0.5, "blue": 1})
    write_adapter(colours / "red", b"other")
    served.kill_engine()
    wait_until(lambda: len(served.events("Started")) == 2 and served.is_ready())
    refused = served.complete(model="blend")
    assert code(refused) == (503, "adapter_unavailable")
    message = refused.json()["error"]["message"]
    assert "its part 1 has other files" in message
    assert "red" not in message  # which its users need not know
    assert states(served, "blend") == {1: "failed"}
    wait_until(lambda: len(served.events("ReleaseAdapter")) == 2)  # of what had been read again
    write_adapter(colours / "red", b"red")
    assert served.complete(model="blend").status_code == 200


def test_who_may_not_use_its_parts_may_use_it_and_learns_no_names(
    start_server: StartServer, colours: Path, tmp_path: Path
) -> None:
    tenant = some_key("alice", "secret", adapters=["blend"])
    admin = some_key("root", "admin-secret", roles=[Role.ADMIN])
    write_keys(tmp_path / "keys.json", tenant, admin)
    with start_server(adapter_dir=colours, keys_file=tmp_path / "keys.json") as server:
        body = body_of("blend", {"red": 0.5, "blue": 1})
        assert server.post(ADAPTERS, body, headers=bearer("secret")).status_code == 403
        assert server.post(ADAPTERS, body, headers=bearer("admin-secret")).status_code == 200
        asked = {"model": "blend", "prompt": "abc"}
        answer = server.post("/v1/completions", asked, headers=bearer("secret"))
        assert used(answer) == ("blend", "1")
        for path in ("/v1/models", "/v1/models/blend"):
            shown = server.get(path, headers=bearer("secret")).text
            assert "red" not in shown
            assert "blue" not in shown
        seen = server.get("/v1/models/blend", headers=bearer("admin-secret")).json()
        assert seen["composition"] == {"red@1": 0.5, "blue@1": 1.0}
        assert seen["root"] == "red@1+blue@1"


def test_it_comes_back_after_a_kill(model_dir: Path, colours: Path, tmp_path: Path) -> None:
    """With weights to their last bit, and its parts still kept from being deleted."""
    parts = {RED: 0.1, BLUE: -1 / 3}
    where = ("--port", "0", "--adapter-root", str(colours), "--state-dir", str(tmp_path / "state"))
    with motet_serve(tmp_path, str(model_dir), *where) as process:
        for name in ("red", "blue"):
            source = {"type": "path", "uri": name}
            body = {"name": name, "source": source, "wait": True}
            httpx2.post(f"{process.url}{ADAPTERS}", json=body).raise_for_status()
        body = body_of("blend", {"red": 0.1, "blue": -1 / 3})
        httpx2.post(f"{process.url}{ADAPTERS}", json=body).raise_for_status()
        process.process.send_signal(signal.SIGKILL)
        process.process.wait(30)
    with motet_serve(tmp_path, str(model_dir), *where) as process:
        shown = httpx2.get(f"{process.url}{ADAPTERS}/blend").json()["versions"][0]
        assert shown["composition"] == {"red@1": 0.1, "blue@1": -1 / 3}
        assert (shown["digest"], shown["state"]) == (digest(parts), "evicted")
        asked = {"model": "blend", "prompt": "abc", "max_tokens": 1}
        answer = httpx2.post(f"{process.url}/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
        assert httpx2.delete(f"{process.url}{ADAPTERS}/red").status_code == 409
