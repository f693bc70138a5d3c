"""Paths and names that lead out of where adapters may come from."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.conftest import StartServer
from tests.security.raw_http import raw
from tests.server.conftest import write_adapter, write_adapters
from tests.server.running_server import BASE, RunningServer, running_server

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture(scope="module")
def exposed(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a root, a sibling whose path begins like it, and a secret beside both."""
    directory = tmp_path_factory.mktemp("exposed")
    root = write_adapters(directory / "adapters")
    write_adapter(directory / "adapters-secret" / "red", b"secret")
    write_adapter(directory / "secret", b"secret")
    (root / "out").symlink_to(directory / "secret")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "ping").symlink_to("pong")
    (root / "pong").symlink_to("ping")
    (root / "far").symlink_to("/")
    with running_server(model_dir, directory / "log", adapter_dir=root) as running:
        yield running


def root_of(server: RunningServer) -> Path:
    return server.log.parent / "adapters"


PATHS = [
    *("..", "../secret", "../adapters-secret/red", "red/../../secret", "./../secret"),
    *("....//secret", "..\\secret", "red/..\\..\\secret", "%2e%2e/secret", "..%2fsecret"),
    *(
        "..%252fsecret",
        "%c0%ae%c0%ae/secret",
        "\u2025/secret",
        "\uff0e\uff0e/secret",
        "..\uff0fsecret",
    ),
    *("out", "out/", "out/.", "up/secret", "up/../secret", "far/etc", "red/../up/secret"),
    *("loop", "ping", "loop/x", "/", "//", "/etc", "//etc", "/proc/self/cwd", "/dev/fd/0"),
    *("~", "~root", "$HOME", "${HOME}/x", "`id`", "$(id)", "|id", "-", "--", "*", "?", "[a-z]*"),
    *("file:///etc", "http://localhost/", "https://evil.example/x", "s3://evil/x", "hf://evil/x"),
    *("smb://evil/x", "ftp://evil/x", "gs://evil/x", "evil/repository", "\\\\evil\\share"),
    *("red\0", "\0", "red\0/../../secret", "red\n", "\nred", "red\r", " red", "red ", "RED"),
    *("CON", "red:stream", "a" * 256, "a/" * 2000, "../" * 1300 + "etc", "a" * 5000),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path)[:30])
def test_no_path_leads_out(exposed: RunningServer, path: str) -> None:
    answer = exposed.post(LOAD, {"lora_name": "evil", "lora_path": path})
    assert answer.status_code in (400, 403, 404), answer.text
    assert answer.json()["error"]["code"] in (
        *("path_not_allowed", "adapter_not_found", "invalid_value", "invalid_adapter"),
    )
    assert str(root_of(exposed).parent) not in answer.text
    assert exposed.get("/v1/models/evil").status_code == 404


def test_absolute_paths_lead_out_neither(exposed: RunningServer) -> None:
    root = root_of(exposed)
    for path in (
        root.parent,
        root.parent / "secret",
        root / ".." / "secret",
        root / "out",
        f"{root}-secret/red",
        f"{root}/../adapters-secret/red",
        f"/proc/self/root{root.parent}/secret",
        f"/proc/{os.getpid()}/root{root.parent}/secret",
        f"//{root.parent}/secret",
    ):
        answer = exposed.post(LOAD, {"lora_name": "evil", "lora_path": str(path)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "path_not_allowed")
    assert not exposed.events("LoadAdapter")


def test_the_answer_does_not_tell_what_lies_outside(exposed: RunningServer) -> None:
    """The same for what is there and what is not, but for the path itself."""
    answers = []
    for path in (
        "/etc/passwd",
        "/etc/nobody-has-this",
        "/var/lib/private",
        "../secret",
        "../nothing",
    ):
        answer = exposed.post(LOAD, {"lora_name": "evil", "lora_path": path})
        answers.append((answer.status_code, answer.text.replace(path, "")))
    assert len(set(answers)) == 1


NAMES = [
    *("..", "../red", "red/../blue", "a/../../b", "/red", "//red", ".red", "-red", "_red"),
    *(
        "red\n",
        "red\0",
        "red ",
        " red",
        "red%00",
        "red\x1b[31m",
        "r\u00e9d",
        "r\u0435d",
        "\uff52ed",
        "\u202eder",
    ),
    *("a:b", f"{BASE}:red", f"{BASE}", "a+b", "a@1", "a@v1", "a b", "a\\b", "*", "?", "a*", "[a]"),
    *("{{7*7}}", "${7*7}", "%s%s%n", "<script>", "'; DROP TABLE adapters; --", '"', "a#b", "a?b"),
    *("x" * 129, "x" * 100_000),
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_no_adapter_gets_a_name_that_means_something_else(
    exposed: RunningServer, name: str
) -> None:
    answer = exposed.post(LOAD, {"lora_name": name, "lora_path": "red"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora_name")
    assert len(answer.content) < 2000
    assert exposed.post(UNLOAD, {"lora_name": name}).status_code in (400, 404)


MODELS = [
    *("..", "../secret", "out", "up/secret", "far/etc", "loop", "/etc", ".", "./red", "red/."),
    *("red/", "red//", "red\0", "red\n", "\nred", "red/../blue", f"{BASE}:../secret", f"{BASE}:"),
    *(f"{BASE}:{BASE}", f"{BASE}:{BASE}:red", "RED", "r\u0435d", "red%00", "x" * 257, "\x1b[2J"),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: ascii(model)[:30])
def test_no_model_is_found_outside(exposed: RunningServer, model: str) -> None:
    bodies: dict[str, dict[str, object]] = {
        "/v1/completions": {"prompt": "x", "max_tokens": 1},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
        "/v1/responses": {"input": "x"},
        "/tokenize": {"prompt": "x"},
        "/detokenize": {"tokens": [1]},
    }
    for path, body in bodies.items():
        answer = exposed.post(path, {"model": model, **body})
        assert answer.status_code in (400, 404), (path, answer.text)
        assert answer.json()["error"]["param"] == "model"
    assert not exposed.events("AddRequest")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "..%2fsecret",
            "%2e%2e/secret",
            "%2e%2e%2fsecret",
            "..%5csecret",
            "%252e%252e%252fx",
        ),
        *("red%00", "red%0a", "red%0d%0a", "%ff", "%c0%ae%c0%ae%c0%afsecret", "out", "up%2fsecret"),
        *("red/", "red%2f", "red/..", "red/../../../secret", "%2fetc", "//etc", "red;x", "red%20"),
    ],
)
def test_no_url_names_a_model_outside(exposed: RunningServer, path: str) -> None:
    answer = raw(exposed, f"GET /v1/models/{path} HTTP/1.1")
    assert (answer.status, answer.code) in ((404, "model_not_found"), (404, "unknown_url"))


def test_an_endless_path_is_refused_before_it_is_walked(exposed: RunningServer) -> None:
    for path in ("a/" * 1_000_000, "../" * 1_000_000, "/" * 3_000_000):
        answer = exposed.post(LOAD, {"lora_name": "evil", "lora_path": path})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "lora_path")
        assert len(answer.content) < 2000


def test_no_name_leads_to_a_file_that_is_written(
    start_server: StartServer, adapters_dir: Path
) -> None:
    """Nothing that a request says becomes a file."""

    def tree() -> set[Path]:
        return {each for each in adapters_dir.parent.rglob("*") if each.name != "engine.jsonl"}

    before = tree()
    with start_server(adapter_dir=adapters_dir) as server:
        server.post(LOAD, {"lora_name": "a/b/c", "lora_path": "red"})
        server.complete(model="a/b/c", user="../../x", cache_salt="../../y")
        server.post(LOAD, {"lora_name": "d", "lora_path": "../../new"})
        assert tree() == before
