"""Routed sets as models: found, loaded with their experts, shown, kept whole, let go."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from motet.core.errors import MotetError
from motet.server.adapter import MAX_VERSIONS
from motet.server.cli import app
from tests.server.conftest import StartServer, write_adapter, write_set
from tests.server.fake_engine import digest_of
from tests.server.running_server import RunningServer, wait_until
from tests.server.some_keys import bearer, some_key, write_keys
from tests.server.test_admin_adapters import adapter, code, create, delete, post

RED_AND_BLUE = {"red": b"red", "blue": b"blue"}


@pytest.fixture
def sets_dir(adapters_dir: Path) -> Path:
    """Two adapters, and a set of them: "mix"."""
    write_set(adapters_dir / "mix", RED_AND_BLUE)
    return adapters_dir


def loads(server: RunningServer) -> list[tuple[str, list[str]]]:
    """What the engine was told to load, with the experts: the last two parts of each path."""
    return [
        (
            Path(event["path"]).name,
            ["/".join(Path(each).parts[-2:]) for each in event["expert_paths"]],
        )
        for event in server.events("LoadAdapter")
    ]


def refusal(server: RunningServer, directory: Path) -> tuple[tuple[int, str], str]:
    answer = create(server, "refused", str(directory))
    return code(answer), answer.json()["error"]["message"]


def test_a_set_in_the_directory_is_a_model_like_any_other(
    start_server: StartServer, sets_dir: Path
) -> None:
    """Its experts are read with it: nobody has used them, and their names stay unread."""
    with start_server(adapter_dir=sets_dir) as server:
        names = [each["id"] for each in server.get("/v1/models").json()["data"]]
        assert names == ["tiny", "blue", "mix", "red"]
        assert server.get("/v1/models/mix").json()["kind"] is None  # nobody has read it
        answer = server.complete(model="mix")
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-adapter-id"] == "mix"
        assert loads(server) == [("mix", ["adapters/red", "adapters/blue"])]
        [request] = server.events("AddRequest")
        assert request["digest"] == server.get("/v1/models/mix").json()["digest"]
        assert adapter(server, "red")["versions"][0]["state"] == "pending"
        assert server.complete(model="red+blue").status_code == 200
        assert code(server.complete(model="red+mix")) == (400, "invalid_value")
        assert code(server.complete(model="red+blue", return_routing=True))[0] == 400
        metrics = server.get("/metrics").text
        for kind in ("routed_set", "composition"):
            assert f'motet_generations_total{{kind="{kind}"}} 1.0' in metrics


def test_what_a_set_is_made_of_is_shown(start_server: StartServer, sets_dir: Path) -> None:
    write_adapter(sets_dir / "green", b"green")
    shared = [{"name": "green", "digest": digest_of(b"green")}]
    write_set(sets_dir / "mix", RED_AND_BLUE, shared=shared)
    routing = {
        "method": "meteora",
        "experts": [
            {"name": "red", "digest": digest_of(b"red")},
            {"name": "blue", "digest": digest_of(b"blue")},
        ],
        "shared": [digest_of(b"green")],
    }
    with start_server(adapter_dir=sets_dir) as server:
        for model in ("mix", "red"):
            assert server.complete(model=model).status_code == 200
        shown = {each["id"]: each for each in server.get("/v1/models").json()["data"]}
        assert "kind" not in shown["tiny"]
        assert (shown["red"]["kind"], shown["red"]["routing"]) == ("adapter", None)
        assert (shown["blue"]["kind"], shown["blue"]["routing"]) == (None, None)
        assert (shown["mix"]["kind"], shown["mix"]["routing"]) == ("routed_set", routing)
        [version] = adapter(server, "mix")["versions"]
        assert (version["kind"], version["routing"]) == ("routed_set", routing)
        command = ["adapters", "list", "--url", server.url]
        listed = CliRunner().invoke(app, command, env={"COLUMNS": "250"})
        assert "meteora of 2" in listed.output


def test_experts_may_lie_in_the_sets_own_directory(
    start_server: StartServer, tmp_path: Path
) -> None:
    experts = [
        {"name": name, "digest": digest_of(name.encode()), "path": f"experts/{name}"}
        for name in ("one", "two")
    ]
    write_set(tmp_path / "sets" / "mix", {}, experts=experts)
    for name in ("one", "two"):
        write_adapter(tmp_path / "sets" / "mix" / "experts" / name, name.encode())
    with start_server(adapter_roots=(tmp_path / "sets",)) as server:
        assert create(server, "mix", "mix").status_code == 200
        assert loads(server) == [("mix", ["experts/one", "experts/two"])]
        assert server.complete(model="mix").status_code == 200
        assert [each["id"] for each in server.get("/v1/models").json()["data"]] == ["tiny", "mix"]


def test_a_set_names_versions_by_their_digest(start_server: StartServer, sets_dir: Path) -> None:
    """Whatever the name means by now."""
    write_adapter(sets_dir / "redder", b"redder")
    with start_server(adapter_dir=sets_dir) as server:
        assert server.complete(model="red").status_code == 200
        assert create(server, "red", "redder").status_code == 200
        assert server.complete(model="mix").status_code == 200
        assert loads(server)[-1] == ("mix", ["adapters/red", "adapters/blue"])
        write_set(sets_dir / "newer", {"red": b"redder"})
        assert server.complete(model="newer").status_code == 200
        assert loads(server)[-1] == ("newer", ["adapters/redder"])


def test_the_same_set_with_other_names_is_no_new_version(
    start_server: StartServer, sets_dir: Path
) -> None:
    """Its experts are looked up, and told of, by the names that it has now."""
    write_adapter(sets_dir / "crimson", b"red")
    write_set(sets_dir / "renamed", {"crimson": b"red", "blue": b"blue"})
    with start_server(adapter_dir=sets_dir) as server:
        assert server.complete(model="mix").status_code == 200
        assert create(server, "mix", "renamed").status_code == 200
        [version] = adapter(server, "mix")["versions"]
        assert [each["name"] for each in version["routing"]["experts"]] == ["crimson", "blue"]
        assert delete(server, "red").status_code == 200
        assert code(delete(server, "crimson")) == (409, "adapter_in_use")


def test_what_is_refused_is_not_there(start_server: StartServer, sets_dir: Path) -> None:
    with start_server(adapter_dir=sets_dir) as server:
        assert server.complete(model="red").status_code == 200
        write_set(sets_dir / "missing", {"green": b"green"})
        found, message = refusal(server, sets_dir / "missing")
        assert found == (404, "adapter_not_found")
        assert "'green'" in message
        write_set(sets_dir / "other", {"red": b"another red"})
        found, message = refusal(server, sets_dir / "other")
        assert found == (400, "digest_mismatch")
        assert digest_of(b"another red") in message
        write_set(sets_dir / "unread", {"blue": b"another blue"})  # the engine reads blue
        assert refusal(server, sets_dir / "unread")[0] == (400, "invalid_adapter")
        write_set(sets_dir / "nested", {"mix": b"red"})
        found, message = refusal(server, sets_dir / "nested")
        assert found == (400, "unsupported_adapter")
        assert "routed set itself" in message
        base = {"name": "tiny", "hidden_size": 65, "num_layers": 2}
        write_set(sets_dir / "base", RED_AND_BLUE, base_model=base)
        assert refusal(server, sets_dir / "base")[0] == (400, "invalid_adapter")
        write_set(sets_dir / "method", RED_AND_BLUE, method="magic")
        assert refusal(server, sets_dir / "method")[0][0] == 400
        assert "refused" not in [each["id"] for each in server.get("/v1/models").json()["data"]]
        assert server.events("ReleaseAdapter") == []  # nothing of them was held
        # A request for one that lies in the directory gets the reason too.
        assert code(server.complete(model="missing")) == (404, "adapter_not_found")


def test_an_expert_cannot_be_deleted_before_its_set(
    start_server: StartServer, sets_dir: Path
) -> None:
    write_adapter(sets_dir / "redder", b"redder")
    with start_server(adapter_dir=sets_dir) as server:
        assert server.complete(model="mix").status_code == 200
        assert server.complete(model="red").status_code == 200
        assert create(server, "red", "redder").status_code == 200
        # Read or not, by version or by name, and whether or not the alias means it.
        for name in ("red@1", "red", "blue"):
            refused = delete(server, name, force=True)
            assert code(refused) == (409, "adapter_in_use")
            assert "mix@1" in refused.json()["error"]["message"]
        assert delete(server, "red@2", force=True).status_code == 200  # no expert of its
        assert server.complete(model="mix").status_code == 200
        assert delete(server, "mix").status_code == 200
        for name in ("red", "blue"):
            assert delete(server, name).status_code == 200
        num_loads = len(server.events("LoadAdapter"))
        wait_until(lambda: len(server.events("ReleaseAdapter")) == num_loads)


def test_an_expert_outlives_the_oldest_versions_of_its_name(
    start_server: StartServer, sets_dir: Path
) -> None:
    for number in range(MAX_VERSIONS + 1):
        write_adapter(sets_dir / f"step-{number}", b"x" * (number + 1))
    with start_server(adapter_dir=sets_dir) as server:
        assert server.complete(model="red").status_code == 200
        assert server.complete(model="mix").status_code == 200
        for number in range(MAX_VERSIONS + 1):
            assert create(server, "red", f"step-{number}").status_code == 200
        kept = [each["version"] for each in adapter(server, "red")["versions"]]
        assert kept == [1, *range(4, MAX_VERSIONS + 3)]


def test_a_copy_of_an_expert_can_be_deleted(start_server: StartServer, sets_dir: Path) -> None:
    """The set has its own."""
    experts = [{"name": "red", "digest": digest_of(b"red"), "path": "red"}]
    write_set(sets_dir / "mix", {}, experts=experts)
    write_adapter(sets_dir / "mix" / "red", b"red")
    with start_server(adapter_dir=sets_dir) as server:
        for model in ("red", "mix"):
            assert server.complete(model=model).status_code == 200
        assert delete(server, "red").status_code == 200
        assert server.complete(model="mix").status_code == 200


def test_a_set_comes_back_with_its_experts(
    start_server: StartServer, sets_dir: Path, tmp_path: Path
) -> None:
    """After the engine's end and the server's, also where an expert's name means something else."""
    write_adapter(sets_dir / "redder", b"redder")
    options: dict[str, Any] = {"adapter_dir": sets_dir, "state_dir": tmp_path / "state"}
    with start_server(**options) as server:
        assert server.complete(model="red").status_code == 200
        before = server.complete(model="mix").json()["choices"]
        digest = server.get("/v1/models/mix").json()["digest"]
        assert create(server, "red", "redder").status_code == 200
        server.kill_engine()
        wait_until(lambda: len(server.events("Started")) == 2 and server.is_ready())
        assert server.complete(model="mix").json()["choices"] == before
        assert loads(server)[-1] == ("mix", ["adapters/red", "adapters/blue"])
    with start_server(**options) as server:
        shown = server.get("/v1/models/mix").json()
        assert (shown["digest"], shown["kind"]) == (digest, "routed_set")
        assert code(delete(server, "red@1")) == (409, "adapter_in_use")
        assert server.complete(model="mix").json()["choices"] == before
        # What it was made of is gone: it never becomes something else.
        write_adapter(sets_dir / "red", b"another red")
        server.kill_engine()
        wait_until(lambda: len(server.events("Started")) == 4 and server.is_ready())
        assert code(server.complete(model="mix")) == (503, "adapter_unavailable")


def test_sets_given_at_start_come_after_their_experts(
    start_server: StartServer, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "one", b"one")
    write_set(tmp_path / "mix", {"one": b"one"})
    adapters = (("mix", tmp_path / "mix"), ("one", tmp_path / "one"))
    with start_server(adapters=adapters) as server:
        assert [name for name, _ in loads(server)] == ["one", "mix"]
        assert server.complete(model="mix").status_code == 200
    with (
        pytest.raises(MotetError, match="needs an adapter 'one'"),
        start_server(adapters=adapters[:1]),
    ):
        pass


def test_a_set_is_pinned_and_warmed_as_one(start_server: StartServer, sets_dir: Path) -> None:
    with start_server(adapter_dir=sets_dir) as server:
        assert post(server, "mix", "pin").status_code == 200
        [pin] = server.events("PinAdapter")
        assert pin["digest"] == server.get("/v1/models/mix").json()["digest"]


def test_users_of_a_set_need_no_right_on_its_experts(
    start_server: StartServer, sets_dir: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    write_keys(keys, some_key("alice", "alice's", adapters=["mix"]))
    with start_server(adapter_dir=sets_dir, keys_file=keys) as server:
        body = {"model": "mix", "prompt": "abc", "max_tokens": 2}
        answer = server.post("/v1/completions", body, headers=bearer("alice's"))
        assert answer.status_code == 200, answer.text
        refused = server.post(
            "/v1/completions", {**body, "model": "red"}, headers=bearer("alice's")
        )
        assert code(refused) == (404, "model_not_found")
