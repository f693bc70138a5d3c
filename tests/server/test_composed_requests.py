"""Requests that say what they are computed with: several adapters, with weights. Over real HTTP."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from structlog.testing import capture_logs

from motet.core.composition import composition_digest
from motet.core.messages import WeightedAdapter
from motet.server.principal import Role
from tests.server.conftest import StartServer, write_adapter
from tests.server.fake_engine import UNAVAILABLE_TOKEN, answer_token, digest_of
from tests.server.running_server import BASE, RunningServer, wait_until
from tests.server.some_keys import bearer, some_key, write_keys
from tests.server.test_admin_adapters import adapter, alias, code, create, delete, used
from tests.server.test_cli import motet

PROMPT = [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30]
MESSAGES = [{"role": "user", "content": "abc"}]
RED, BLUE, GREEN = (digest_of(name) for name in (b"red", b"blue", b"green"))


@pytest.fixture
def served(start_server: StartServer, adapters_dir: Path) -> Iterator[RunningServer]:
    write_adapter(adapters_dir / "green", b"green")
    write_adapter(adapters_dir / "broken", b"bad")
    with start_server(adapter_dir=adapters_dir, adapter_roots=(adapters_dir,)) as server:
        yield server


def asked_for(server: RunningServer) -> tuple[str | None, dict[str, float]]:
    """The digest and the parts of the last request that the engine got."""
    request = server.events("AddRequest")[-1]
    return request["digest"], {part["digest"]: part["weight"] for part in request["parts"]}


def digest(parts: dict[str, float]) -> str:
    return composition_digest([WeightedAdapter(*part) for part in parts.items()])


@pytest.mark.parametrize(
    "body",
    [
        {"model": "red+blue"},
        {"model": "blue@1+red@v1"},
        {"model": f"{BASE}:red+blue"},
        {"model": f"{BASE}:red+{BASE}:blue"},
        {"lora": {"red": 1, "blue": 1.0}},
        {"lora": {f"{BASE}:blue": 1, "red@1": 1.0}},
    ],
    ids=str,
)
def test_however_it_is_spelt_it_is_one_composition(
    served: RunningServer, body: dict[str, Any]
) -> None:
    answer = served.complete(PROMPT, return_token_ids=True, **body)
    assert answer.status_code == 200, answer.text
    parts = {RED: 1.0, BLUE: 1.0}
    assert asked_for(served) == (digest(parts), parts)
    expected = [answer_token(PROMPT, digest(parts), place) for place in range(8)]
    assert answer.json()["choices"][0]["token_ids"] == expected
    assert answer.json()["model"] == body.get("model", BASE)
    assert len(served.events("LoadAdapter")) == 2


def test_weights_go_to_the_engine_as_they_are(served: RunningServer) -> None:
    for weights in ({"red": 0.7, "blue": -0.3, "green": 100}, {"red": 0.5}, {"red": 1e-30}):
        assert served.complete(lora=weights).status_code == 200
        by_name = {"red": RED, "blue": BLUE, "green": GREEN}
        parts = {by_name[name]: float(weight) for name, weight in weights.items()}
        assert asked_for(served) == (digest(parts), parts)


def test_one_adapter_at_weight_1_is_that_adapter(served: RunningServer) -> None:
    for body in ({"model": "red"}, {"lora": {"red": 1}}):
        answer = served.complete(**body)
        assert asked_for(served) == (RED, {})
        assert used(answer) == ("red", "1")
    assert served.complete(lora=None).status_code == 200
    assert asked_for(served) == (None, {})


def test_every_endpoint_takes_them(served: RunningServer) -> None:
    for body, expected in (
        ({"model": "red+blue"}, {RED: 1.0, BLUE: 1.0}),
        ({"model": BASE, "lora": {"red": 0.5, "blue": 2}}, {RED: 0.5, BLUE: 2.0}),
    ):
        for path, more in (
            ("/v1/completions", {"prompt": "abc"}),
            ("/v1/completions", {"prompt": "abc", "stream": True}),
            ("/v1/chat/completions", {"messages": MESSAGES}),
            ("/v1/responses", {"input": "abc"}),
        ):
            answer = served.post(path, {**body, **more})
            assert answer.status_code == 200, answer.text
            assert used(answer) == ("red+blue", "1+1")
            assert asked_for(served) == (digest(expected), expected)
        for path, more in (
            ("/tokenize", {"prompt": "abc"}),
            ("/tokenize", {"messages": MESSAGES}),
            ("/detokenize", {"tokens": [1]}),
        ):
            assert used(served.post(path, {**body, **more})) == ("red+blue", "1+1")
    assert served.post("/tokenize", {"prompt": "a", "lora": {"red": 2}}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"model": "red+none"}, 404, "model", "'none' does not exist"),
        ({"model": "none+red"}, 404, "model", "'none' does not exist"),
        ({"lora": {"none": 1}}, 404, "lora", "'none' does not exist"),
        ({"model": f"red+{BASE}"}, 400, "model", "is the base model"),
        ({"lora": {BASE: 1}}, 400, "lora", "is the base model"),
        ({"model": "red", "lora": {"blue": 1}}, 400, "lora", "'model' should be the base model"),
        ({"model": "none", "lora": {"blue": 1}}, 400, "lora", "'model' should be the base model"),
        ({"model": "red+red"}, 400, "model", "'red' twice"),
        ({"model": "red+red@1"}, 400, "model", "'red@1' is named twice"),
        ({"lora": {"red": 1, "red@1": 1}}, 400, "lora", "'red@1' is named twice"),
        ({"lora": {"red+blue": 1}}, 404, "lora", "'red+blue' does not exist"),
        ({"model": "+".join("abcdefghi")}, 400, "model", "more than 8"),
        ({"model": "red+"}, 400, "model", "on either side"),
        ({"lora": {}}, 400, "lora", "1 to 8 adapters, not 0"),
        ({"lora": dict.fromkeys("abcdefghi", 1)}, 400, "lora", "1 to 8 adapters, not 9"),
        ({"lora": {str(each): 1 for each in range(50_000)}}, 400, "lora", "1 to 8 adapters"),
        ({"lora": {"red": 0}}, 400, "lora", "but not 0"),
        ({"lora": {"red": -0.0}}, 400, "lora", "but not 0"),
        ({"lora": {"red": 100.5}}, 400, "lora", "from -100 to 100"),
        ({"lora": {"red": -1e300}}, 400, "lora", "from -100 to 100"),
        ({"lora": {"red": True}}, 400, "lora", "numbers"),
        ({"lora": {"red": "1"}}, 400, "lora", "numbers"),
        ({"lora": {"red": None}}, 400, "lora", "numbers"),
        ({"lora": {"": 1}}, 400, "lora", "1 to 256 characters"),
        ({"lora": {"r" * 257: 1}}, 400, "lora", "1 to 256 characters"),
        ({"lora": ["red"]}, 400, "lora", "object"),
        ({"lora": "red"}, 400, "lora", "object"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_composed_is_refused(
    server: RunningServer, path: str, body: dict[str, Any], status: int, param: str, message: str
) -> None:
    whole = {"model": BASE, "prompt": "abc", "messages": MESSAGES, "input": "abc", **body}
    kept = {"/v1/completions": "prompt", "/v1/responses": "input"}.get(path, "messages")
    dropped = {"prompt", "messages", "input"} - {kept}
    answer = server.post(path, {name: each for name, each in whole.items() if name not in dropped})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert message in error["message"]
    assert len(answer.text) < 600
    assert server.started.registry.leases.count("red@1") == 0


@pytest.mark.parametrize("weight", [b"NaN", b"Infinity", b"1e999"])
def test_weights_are_finite(server: RunningServer, weight: bytes) -> None:
    body = b'{"model": "tiny", "prompt": "a", "lora": {"red": ' + weight + b"}}"
    headers = {"Content-Type": "application/json"}
    answer = server.http.post("/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400


def test_what_has_the_same_content_is_there_once(served: RunningServer) -> None:
    """Which may be known only once both have been read."""
    create(served, "copy", "red")
    for model in ("red+copy", "copy+red"):
        refused = served.complete(model=model)
        assert code(refused) == (400, "invalid_value")
        assert "'copy@1'" in refused.json()["error"]["message"]
    assert served.events("AddRequest") == []
    assert served.started.registry.leases.count("copy@1") == 0


def test_a_part_that_cannot_be_loaded_fails_the_whole(served: RunningServer) -> None:
    refused = served.complete(model="red+broken")
    assert code(refused) == (400, "invalid_adapter")
    assert "'broken'" in refused.json()["error"]["message"]
    assert served.events("AddRequest") == []
    assert served.complete(model="red+blue").status_code == 200


def test_each_part_is_what_a_request_for_it_alone_would_get(served: RunningServer) -> None:
    create(served, "mine", "red")
    create(served, "mine", "green", activate=False)
    alias(served, "mine", {"1": 1, "2": 1})
    seen: Counter[str | None] = Counter()
    for user in map(str, range(24)):
        alone = used(served.complete(model="mine", user=user))[1]
        name, versions = used(served.complete(model="mine+blue", user=user))
        assert (name, versions) == ("mine+blue", f"{alone}+1")
        assert set(asked_for(served)[1]) == {RED if alone == "1" else GREEN, BLUE}
        seen[alone] += 1
    assert set(seen) == {"1", "2"}


def test_its_parts_are_used_until_it_ends(start_server: StartServer, adapters_dir: Path) -> None:
    with start_server(adapter_dir=adapters_dir, engine={"step_s": 0.02}) as server:
        body = {"model": "red+blue", "prompt": PROMPT, "max_tokens": 400, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            for name in ("red", "blue"):
                [version] = adapter(server, name)["versions"]
                assert version["users"] == 1
                assert version["last_used"] is not None
            # The request goes on, and new ones are refused.
            gone = delete(server, "red", drain_timeout_s=0)
            assert gone.json()["drained"] is False
            assert code(server.complete(model="red+blue")) == (404, "model_not_found")
            assert "text" in next(line for line in lines if line)
        wait_until(lambda: adapter(server, "blue")["versions"][0]["users"] == 0)


def test_an_engine_that_came_back_gets_all_parts_again(served: RunningServer) -> None:
    served.complete(model="red+blue")
    served.kill_engine()
    wait_until(lambda: len(served.events("Started")) == 2 and served.is_ready())
    assert served.complete(model="red+blue").status_code == 200
    assert len(served.events("LoadAdapter")) == 4


def namings(name: str) -> list[dict[str, Any]]:
    """Ways to make something a part."""
    return [
        {"model": f"red+{name}"},
        {"model": f"{name}+red"},
        {"model": f"red+{name}@1"},
        {"model": f"{BASE}:red+{name}"},
        {"lora": {name: 0.5}},
        {"lora": {"red": 1, f"{name}@v1": 1}},
    ]


def test_what_one_may_not_use_is_no_part(
    start_server: StartServer, adapters_dir: Path, tmp_path: Path
) -> None:
    """It is as if it were not there, in any place and however it is spelt."""
    write_adapter(adapters_dir / "red-2", b"red-2")
    tenant = some_key("alice", "secret", adapters=["red*"])
    admin = some_key("root", "admin-secret", roles=[Role.ADMIN])
    write_keys(tmp_path / "keys.json", tenant, admin)
    with start_server(adapter_dir=adapters_dir, keys_file=tmp_path / "keys.json") as server:

        def ask(key: str, **body: object) -> httpx2.Response:
            whole = {"model": BASE, "prompt": "abc", **body}
            return server.post("/v1/completions", whole, headers=bearer(key))

        assert ask("admin-secret", model="red+blue").status_code == 200
        assert ask("secret", model="red+red-2").status_code == 200
        num_loads = len(server.events("LoadAdapter"))
        for hidden, unknown in zip(namings("blue"), namings("nope"), strict=True):
            seen, unseen = ask("secret", **hidden), ask("secret", **unknown)
            assert code(seen) == code(unseen) == (404, "model_not_found")
            assert seen.text.replace("blue", "nope") == unseen.text
            assert seen.headers.keys() == unseen.headers.keys()
        assert len(server.events("LoadAdapter")) == num_loads


def test_metrics_have_one_label_for_all_of_them(served: RunningServer) -> None:
    with capture_logs() as captured:
        for weight in (1, 2, 3):
            served.complete(lora={"red": weight, "blue": 0.5})
        served.complete(model="green")
        wait_until(lambda: sum(event["event"] == "request" for event in captured) >= 4)
    text = served.get("/metrics").text
    assert 'motet_requests_total{model="_composed",status="200"} 3.0' in text
    assert 'motet_requests_total{model="green",status="200"} 1.0' in text
    assert "red+blue" not in text
    told = [event for event in captured if event.get("path") == "/v1/completions"]
    assert [(each["model"], each.get("version"), each.get("versions")) for each in told] == [
        *[("red+blue", None, [1, 1])] * 3,
        ("green", 1, None),
    ]


def test_failures_say_who_was_asked(served: RunningServer) -> None:
    failed = served.complete([UNAVAILABLE_TOKEN], model="red+blue")
    assert code(failed) == (503, "adapter_unavailable")
    assert used(failed) == ("red+blue", "1+1")


def test_a_composition_is_no_listed_model(served: RunningServer) -> None:
    for name in ("red+blue", quote("red+blue", safe="")):
        assert served.get(f"/v1/models/{name}").status_code == 404
    assert code(create(served, "red+blue", "red")) == (400, "invalid_value")


def test_the_command_line_takes_one(served: RunningServer) -> None:
    status, text = motet("complete", "abc", "--model", "red+blue", "--url", served.url)
    assert status == 0, text
    assert set(asked_for(served)[1]) == {RED, BLUE}
