"""Loading, reloading and unloading adapters while the server runs."""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.server.conftest import StartServer, write_adapter
from tests.server.fake_engine import digest_of
from tests.server.running_server import BASE, RunningServer, wait_until

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def load(server: RunningServer, name: str, path: Path | str, **more: object) -> tuple[int, str]:
    body = {"lora_name": name, "lora_path": str(path), **more}
    response = server.post(LOAD, body)
    return response.status_code, response.text


def references(server: RunningServer) -> Counter[str]:
    """By digest, what the engine was asked to keep and what it was given back."""
    count: Counter[str] = Counter()
    for event in server.events("LoadAdapter"):
        weights = Path(event["path"]) / "weights"
        if weights.is_file() and weights.read_bytes() != b"bad":
            count[digest_of(weights.read_bytes())] += 1
    for event in server.events("ReleaseAdapter"):
        count[event["digest"]] -= 1
    return count


def test_the_answers_are_those_of_vllm(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_roots=(adapters_dir,)) as server:
        assert server.complete(model="mine").status_code == 404
        loaded = server.post(LOAD, {"lora_name": "mine", "lora_path": str(adapters_dir / "red")})
        assert loaded.status_code == 200
        assert loaded.headers["content-type"].startswith("text/plain")
        assert loaded.text == "Success: LoRA adapter 'mine' added successfully."
        assert server.complete(model="mine").status_code == 200
        removed = server.post(UNLOAD, {"lora_name": "mine"})
        assert removed.status_code == 200
        assert removed.text == "Success: LoRA adapter 'mine' removed successfully."
        assert server.complete(model="mine").status_code == 404
        wait_until(lambda: references(server) == Counter({digest_of(b"red"): 0}))


def test_fields_that_deployment_tools_add_are_ignored_here(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_roots=(adapters_dir,)) as server:
        assert load(server, "mine", "red", base_model_name=BASE, load_inplace=None)[0] == 200
        assert server.post(UNLOAD, {"lora_name": "mine", "lora_int_id": 1}).status_code == 200


def test_what_is_refused_and_how(start_server: StartServer, adapters_dir: Path) -> None:
    write_adapter(adapters_dir / "broken", b"bad")
    outside = adapters_dir.parent / "outside"
    write_adapter(outside, b"outside")
    (adapters_dir / "link").symlink_to(outside)
    cases: list[tuple[str, object, int, str, str]] = [
        ("mine", adapters_dir / "nothing", 404, "adapter_not_found", "lora_path"),
        ("mine", outside, 403, "path_not_allowed", "lora_path"),
        ("mine", adapters_dir / ".." / "outside", 403, "path_not_allowed", "lora_path"),
        ("mine", adapters_dir / "link", 403, "path_not_allowed", "lora_path"),
        ("mine", "/etc", 403, "path_not_allowed", "lora_path"),
        ("mine", adapters_dir / "broken", 400, "invalid_adapter", "lora_path"),
        ("../mine", adapters_dir / "red", 400, "invalid_value", "lora_name"),
        ("a:b", adapters_dir / "red", 400, "invalid_value", "lora_name"),
        ("x" * 129, adapters_dir / "red", 400, "invalid_value", "lora_name"),
        (BASE, adapters_dir / "red", 400, "invalid_value", "lora_name"),
        ("", adapters_dir / "red", 400, "invalid_value", "lora_name"),
        ("mine", "", 400, "invalid_value", "lora_path"),
    ]
    with start_server(adapter_roots=(adapters_dir,)) as server:
        for name, path, status, code, param in cases:
            body = {"lora_name": name, "lora_path": str(path)}
            response = server.post(LOAD, body)
            error = response.json()["error"]
            assert (response.status_code, error["code"], error["param"]) == (status, code, param)
        for path in (LOAD, UNLOAD):
            error = server.post(path, {"lora_path": "x"}).json()["error"]
            assert (error["code"], error["param"]) == ("missing_required_parameter", "lora_name")
        response = server.post(UNLOAD, {"lora_name": "mine"})
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "adapter_not_found"
        assert [model["id"] for model in server.get("/v1/models").json()["data"]] == [BASE]
        assert references(server) == Counter()


def test_without_roots_nothing_can_be_loaded(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server() as server:
        assert load(server, "mine", adapters_dir / "red")[0] == 403


def test_a_taken_name_needs_load_inplace(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        assert server.complete(model="red").status_code == 200
        for path in ("red", "blue"):
            status, text = load(server, "red", path)
            assert status == 400
            assert "load_inplace" in text
        assert server.get("/v1/models/red").json()["digest"] == digest_of(b"red")


def test_a_reload_swaps_the_name_and_running_requests_keep_their_weights(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(engine={"step_s": 0.02}, adapter_dir=adapters_dir) as server:
        old = server.complete("abcdefgh", model="red", max_tokens=50).json()
        answers: list[dict[str, object]] = []
        running = threading.Thread(
            target=lambda: answers.append(
                server.complete("abcdefgh", model="red", max_tokens=50).json()
            )
        )
        running.start()
        wait_until(lambda: len(server.events("AddRequest")) == 2)
        write_adapter(adapters_dir / "red", b"weights that answer in another way")
        assert load(server, "red", adapters_dir / "red", load_inplace=True)[0] == 200
        assert running.is_alive()
        new = server.complete("abcdefgh", model="red", max_tokens=8).json()
        running.join(30)
        assert answers[0]["choices"] == old["choices"]
        assert new["choices"][0]["text"] != old["choices"][0]["text"][:8]
        # What a rollback would bring back stays in the engine; what was before that goes.
        assert server.events("ReleaseAdapter") == []
        assert load(server, "red", "blue", load_inplace=True)[0] == 200
        wait_until(lambda: server.events("ReleaseAdapter"))
        released = [event["digest"] for event in server.events("ReleaseAdapter")]
        assert released == [digest_of(b"red")]


@pytest.mark.parametrize("content", [b"bad", None])
def test_a_reload_that_fails_leaves_the_old_version(
    start_server: StartServer, adapters_dir: Path, content: bytes | None
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        before = server.complete("abcdefgh", model="red").json()["choices"]
        path = adapters_dir / "next"
        if content is not None:
            write_adapter(path, content)
        assert load(server, "red", path, load_inplace=True)[0] in (400, 404)
        assert server.complete("abcdefgh", model="red").json()["choices"] == before
        assert server.events("ReleaseAdapter") == []


def test_names_that_share_weights_hold_a_reference_each(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        assert server.complete(model="red").status_code == 200
        assert load(server, "red2", "red")[0] == 200
        assert references(server)[digest_of(b"red")] == 2
        assert server.post(UNLOAD, {"lora_name": "red"}).status_code == 200
        wait_until(lambda: references(server)[digest_of(b"red")] == 1)
        assert server.complete(model="red2").status_code == 200


def test_loads_of_one_name_at_once_are_done_one_after_another(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(engine={"load_s": 0.05}, adapter_roots=(adapters_dir,)) as server:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(load(server, "mine", "red")[0]))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(statuses) == [200, 400, 400, 400, 400]
        assert len(server.events("LoadAdapter")) == 1


def test_a_name_flipped_under_load_never_mixes_versions(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        prompt = "abcdefgh"
        texts = {
            server.complete(prompt, model=name, max_tokens=32).json()["choices"][0]["text"]
            for name in ("red", "blue")
        }
        assert len(texts) == 2
        assert load(server, "flip", "red")[0] == 200
        answers: list[tuple[int, str]] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                response = server.complete(prompt, model="flip", max_tokens=32)
                text = response.json()["choices"][0]["text"] if response.is_success else ""
                answers.append((response.status_code, text))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        num_flips = 0
        # Loads are quicker than answers, so go on until both versions have answered often.
        while min(Counter(text for _, text in answers)[each] for each in texts) < 10:
            name = ("blue", "red")[num_flips % 2]
            assert load(server, "flip", name, load_inplace=True)[0] == 200
            num_flips += 1
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join(30)
        assert {status for status, _ in answers} == {200}
        assert {text for _, text in answers} == texts
        # One for the name of its own, one for the version of "flip", however often it was loaded.
        kept = Counter({digest_of(b"red"): 2, digest_of(b"blue"): 2})
        wait_until(lambda: references(server) == kept)
        assert server.get("/v1/models/flip@2").json()["digest"] == digest_of(b"blue")
        assert server.get("/v1/models/flip@3").status_code == 404
