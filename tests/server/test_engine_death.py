"""Engines that die, or never live: who is told what, and what comes back."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from motet.core.errors import MotetError
from tests.server.conftest import StartServer, write_adapter
from tests.server.fake_engine import LONG_STEP_TOKEN, digest_of
from tests.server.running_server import RunningServer, wait_until

SLOW = {"step_s": 0.05}


def in_background(work: Callable[[], httpx2.Response]) -> Callable[[], httpx2.Response]:
    """Start `work`; the returned function waits for its result."""
    results: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()

    def result() -> httpx2.Response:
        thread.join(30)
        return results[0]

    return result


def die_and_return(server: RunningServer) -> None:
    num_starts = len(server.events("Started"))
    server.kill_engine()
    wait_until(lambda: len(server.events("Started")) > num_starts and server.is_ready())


def test_requests_fail_the_engine_returns_and_so_do_its_adapters(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(engine=SLOW, adapter_dir=adapters_dir) as server:
        before = server.complete("abcdefg", model="red").json()["choices"][0]["text"]
        waiting = [in_background(lambda: server.complete(max_tokens=400)) for _ in range(3)]
        wait_until(lambda: len(server.events("AddRequest")) == 4)
        server.kill_engine()
        for result in waiting:
            response = result()
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "engine_dead"
        wait_until(lambda: len(server.events("Started")) == 2 and server.is_ready())
        answer = server.complete("abcdefg", model="red")
        assert answer.json()["choices"][0]["text"] == before
        first, second = (event["pid"] for event in server.events("Started"))
        loads = [event["pid"] for event in server.events("LoadAdapter")]
        assert loads == [first, second]  # each when it was used
        # Nothing that was meant for the dead engine reached the living one.
        assert {event["pid"] for event in server.events("AddRequest")[:4]} == {first}
        assert server.events("ReleaseAdapter") == []


def test_meanwhile_the_server_lives_but_is_not_ready(start_server: StartServer) -> None:
    with start_server(engine={"start_s": 2}) as server:
        server.kill_engine()
        wait_until(lambda: not server.is_ready())
        for path in ("/ready", "/health"):
            response = server.get(path)
            assert response.status_code == 503
            assert "signal 9" in response.json()["error"]["message"]
        assert server.get("/live").status_code == 200
        response = server.complete()
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_restarting"
        assert int(response.headers["retry-after"]) > 0
        admin = {"lora_name": "red", "lora_path": "x"}
        assert server.post("/v1/load_lora_adapter", admin).status_code == 503
        assert "motet_engine_ready 0.0" in server.get("/metrics").text
        wait_until(server.is_ready)
        assert server.complete().status_code == 200
        assert "motet_engine_ready 1.0" in server.get("/metrics").text


def test_an_engine_that_hangs_is_started_again(
    start_server: StartServer, adapters_dir: Path
) -> None:
    """It is there, but answers nothing: stopped by a signal, here, or by a driver."""
    given = (("red", adapters_dir / "red"),)
    with start_server(engine=SLOW, adapters=given, engine_timeout_s=1) as server:
        before = server.complete("abcdefg", model="red").json()["choices"]
        first = server.engine_pid
        waiting = in_background(lambda: server.complete(max_tokens=400))
        body = {"model": "red", "prompt": "abc", "max_tokens": 400, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as stream:
            wait_until(lambda: len(server.events("AddRequest")) == 3)
            server.kill_engine(signal.SIGSTOP)
            events = [line for line in stream.iter_lines() if line]
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "engine_dead"
        assert "no answer for 1 s" in waiting().json()["error"]["message"]
        wait_until(lambda: len(server.events("Started")) == 2 and server.is_ready())
        assert not Path(f"/proc/{first}").exists()
        assert server.complete("abcdefg", model="red").json()["choices"] == before


def test_death_while_a_version_is_warmed_does_not_fail_the_version(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(engine={"pin_s": 5}, adapter_roots=(adapters_dir,)) as server:
        source = {"type": "path", "uri": "red"}
        body = {"name": "red", "source": source, "warm": True, "wait": True}
        loading = in_background(lambda: server.post("/admin/v1/adapters", body))
        wait_until(lambda: server.events("PinAdapter"))
        server.kill_engine()
        assert loading().json()["error"]["code"] == "engine_dead"
        shown = server.get("/admin/v1/adapters/red").json()
        assert [each["state"] for each in shown["versions"]] != ["failed"]
        wait_until(lambda: len(server.events("Started")) == 2 and server.is_ready())
        assert server.complete(model="red").status_code == 200


def test_death_while_a_server_starts_is_said_as_any_error(
    start_server: StartServer, adapters_dir: Path, tmp_path: Path
) -> None:
    options = {"adapter_roots": (adapters_dir,), "state_dir": tmp_path / "state"}
    with start_server(**options) as server:
        for name in ("red", "blue"):
            source = {"type": "path", "uri": name}
            body = {"name": name, "source": source, "pin": True, "wait": True}
            assert server.post("/admin/v1/adapters", body).status_code == 200
        log, num_pins = server.log, len(server.events("PinAdapter"))

    def kill() -> None:
        def pins() -> list[dict[str, int]]:
            events = map(json.loads, log.read_text().splitlines())
            return [event for event in events if event["kind"] == "PinAdapter"]

        wait_until(lambda: len(pins()) > num_pins)
        os.kill(pins()[-1]["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with (
        pytest.raises(MotetError, match="signal 9"),
        start_server(engine={"pin_s": 5}, **options),
    ):
        pass
    killer.join()


def test_the_engine_returns_though_temporary_files_were_tidied_up(
    start_server: StartServer,
) -> None:
    with start_server() as server:
        shutil.rmtree(Path(server.started.client._directory.name))
        die_and_return(server)
        assert server.complete().status_code == 200


def test_a_long_step_is_no_death(start_server: StartServer) -> None:
    """One asks several times meanwhile, and all is answered after it."""
    with start_server(engine={"long_step_s": 1.5}, engine_timeout_s=4) as server:
        assert server.complete([LONG_STEP_TOKEN, 50], max_tokens=2).status_code == 200
        assert len(server.events("Ping")) >= 1
        assert len(server.events("Started")) == 1
        assert server.is_ready()


def test_adapters_that_changed_or_went_meanwhile_are_unavailable(
    start_server: StartServer, adapters_dir: Path
) -> None:
    """A name never changes its weights by accident."""
    for name in ("kept", "gone"):
        write_adapter(adapters_dir / name, name.encode())
    names = ("red", "blue", "gone", "kept")
    with start_server(adapter_dir=adapters_dir) as server:
        for name in names:
            assert server.complete(model=name).status_code == 200
        write_adapter(adapters_dir / "red", b"other weights")
        write_adapter(adapters_dir / "blue", b"bad")
        shutil.rmtree(adapters_dir / "gone")
        die_and_return(server)
        responses = {name: server.complete(model=name) for name in names}
        assert responses.pop("kept").status_code == 200
        for name, response in responses.items():
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (503, "adapter_unavailable")
            assert error["param"] == "model"
            assert f"'{name}'" in error["message"]
            assert int(response.headers["retry-after"]) > 0
        assert "load_inplace" in responses["red"].json()["error"]["message"]
        released = [(each["digest"], each["path"]) for each in server.events("ReleaseAdapter")]
        assert released == [(digest_of(b"other weights"), str(adapters_dir / "red"))]
        # They are still known by what they meant.
        assert server.get("/v1/models/red").json()["digest"] == digest_of(b"red")


def test_an_adapter_whose_files_come_back_is_served_again(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        before = server.complete("abcdefgh", model="red").json()["choices"]
        write_adapter(adapters_dir / "red", b"other weights")
        die_and_return(server)
        assert server.complete("abcdefgh", model="red").status_code == 503
        write_adapter(adapters_dir / "red", b"red")
        assert server.complete("abcdefgh", model="red").json()["choices"] == before


def test_changed_files_are_served_once_an_admin_says_so(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        server.complete(model="red")
        write_adapter(adapters_dir / "red", b"other weights")
        die_and_return(server)
        body: dict[str, object] = {"lora_name": "red", "lora_path": "red"}
        refused = server.post("/v1/load_lora_adapter", body)
        assert refused.json()["error"]["code"] == "adapter_already_loaded"
        body["load_inplace"] = True
        assert server.post("/v1/load_lora_adapter", body).status_code == 200
        assert server.complete(model="red").status_code == 200
        assert server.events("ReleaseAdapter") == []


def test_only_what_must_be_there_is_loaded_before_the_server_is_ready_again(
    start_server: StartServer, adapters_dir: Path
) -> None:
    for name in ("given", "loaded", "pinned"):
        write_adapter(adapters_dir / name, name.encode())
    given = (("given", adapters_dir / "given"),)
    with start_server(adapters=given, adapter_dir=adapters_dir) as server:
        server.complete(model="red")
        for name in ("loaded", "pinned"):
            body = {"lora_name": name, "lora_path": name, "pinned": name == "pinned"}
            assert server.post("/v1/load_lora_adapter", body).status_code == 200
        die_and_return(server)
        pid = server.events("Started")[-1]["pid"]
        loads = [each["path"] for each in server.events("LoadAdapter") if each["pid"] == pid]
        assert sorted(loads) == [str(adapters_dir / "given"), str(adapters_dir / "pinned")]
        pins = [each["digest"] for each in server.events("PinAdapter") if each["pid"] == pid]
        assert pins == [digest_of(b"pinned")]
        assert server.complete(model="loaded").status_code == 200
        assert server.get("/v1/models/pinned").json()["pinned"]


def test_it_returns_again_and_again(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        for _ in range(2):
            die_and_return(server)
            assert server.complete(model="blue").status_code == 200


def test_a_load_that_is_under_way_fails_and_leaves_the_old_version(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(engine={"load_s": 1}, adapter_dir=adapters_dir) as server:
        body = {"lora_name": "red", "lora_path": str(adapters_dir / "blue"), "load_inplace": True}
        assert server.complete(model="red").status_code == 200
        result = in_background(lambda: server.post("/v1/load_lora_adapter", body))
        wait_until(lambda: len(server.events("LoadAdapter")) == 2)
        server.kill_engine()
        assert result().json()["error"]["code"] == "engine_dead"
        wait_until(lambda: len(server.events("Started")) == 2 and server.is_ready())
        red = server.get("/v1/models/red").json()
        assert red["digest"] == digest_of(b"red")
        assert server.complete(model="red").status_code == 200


def test_a_first_load_that_is_under_way_fails_and_the_next_request_tries_again(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(engine={"load_s": 1}, adapter_dir=adapters_dir) as server:
        result = in_background(lambda: server.complete(model="red"))
        wait_until(lambda: server.events("LoadAdapter"))
        server.kill_engine()
        assert result().json()["error"]["code"] == "engine_dead"
        wait_until(lambda: len(server.events("Started")) == 2 and server.is_ready())
        assert server.complete(model="red").status_code == 200


def test_an_engine_that_says_why_it_cannot_start_is_quoted(start_server: StartServer) -> None:
    with (
        pytest.raises(MotetError, match="no such model") as caught,
        start_server(engine={"start_error": "no such model"}),
    ):
        pass
    assert caught.value.code == "invalid_model"


def test_an_engine_that_dies_at_once_is_reported_with_its_status(
    start_server: StartServer,
) -> None:
    with (
        pytest.raises(MotetError, match="exit status 3"),
        start_server(engine={"exit_at_start": 3}),
    ):
        pass


def test_a_static_adapter_that_is_refused_ends_the_start(
    start_server: StartServer, adapters_dir: Path
) -> None:
    write_adapter(adapters_dir / "red", b"bad")
    with (
        pytest.raises(MotetError, match=r"adapter red at .* cannot be loaded: bad weights"),
        start_server(adapters=(("red", adapters_dir / "red"),)),
    ):
        pass
