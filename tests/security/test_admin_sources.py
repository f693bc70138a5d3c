"""The admin API of adapters: sources that lead elsewhere, versions and names that are none."""

import json
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from motet.server.events import EventLog
from tests.security.conftest import StartServer
from tests.security.raw_http import raw
from tests.server.conftest import write_adapters
from tests.server.running_server import BASE, RunningServer, running_server

ADAPTERS = "/admin/v1/adapters"
TOKEN = "hf_the-token-of-the-server"


@dataclass
class Trap:
    """A server that nobody should call, or with nothing secret."""

    url: str
    seen: list[tuple[str, str | None]] = field(default_factory=list)  # path and Authorization
    redirect: str | None = None
    commit: str = "../../../../etc"


@pytest.fixture
def make_trap() -> Iterator[Any]:
    servers = []

    def make() -> Trap:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                trap.seen.append((self.path, self.headers["Authorization"]))
                if trap.redirect and "/resolve/" in self.path:
                    self.send_response(302)
                    self.send_header("Location", trap.redirect + self.path)
                    self.end_headers()
                    return
                self.send_response(200)
                body = _json({"id": "trusted/mine", "sha": trap.commit})
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        trap = Trap(f"http://127.0.0.1:{server.server_port}")
        return trap

    yield make
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(make_trap: Any, monkeypatch: pytest.MonkeyPatch) -> Trap:
    """What the server takes for the Hub and for S3."""
    trap: Trap = make_trap()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", trap.url)
    template = trap.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_ENDPOINT_URL", trap.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    return trap


@pytest.fixture(scope="module")
def sourced(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that trusts one organisation and one prefix of a bucket."""
    directory = tmp_path_factory.mktemp("sourced")
    with running_server(
        model_dir,
        directory / "log",
        adapter_dir=write_adapters(directory / "adapters"),
        hub_orgs=("trusted",),
        buckets=("s3://models/public",),
        state_dir=directory / "state",
    ) as server:
        yield server


def state_of(server: RunningServer) -> Path:
    return server.log.parent / "state"


def create(server: RunningServer, source: dict[str, Any], name: str = "mine") -> Any:
    return server.post(ADAPTERS, {"name": name, "source": source, "wait": True})


OUTSIDE = [
    *(("hf", uri) for uri in ("evil/x", "Trusted/x", "trusted", "trusted/", "trusted//x", "/x")),
    *(("hf", uri) for uri in ("trusted/../evil/x", "trusted/x/../../evil", "trusted/x/y", "x")),
    *(
        ("hf", uri)
        for uri in ("trusted/..", "trusted/.", "trusted/x?y", "trusted/x#y", "trusted@x")
    ),
    *(("hf", uri) for uri in ("trusted/%2e%2e", "trusted/x\n", "trusted/x\0", "trusted/\u0445")),
    *(("hf", uri) for uri in ("http://127.0.0.1/x", "https://evil.example/trusted/x", "//evil/x")),
    *(("hf", uri) for uri in ("file:///etc", "s3://models/public/x", "trusted\\..\\evil", "*/*")),
    *(("s3", uri) for uri in ("s3://evil/x", "s3://models/private", "s3://models", "s3://models/")),
    *(("s3", uri) for uri in ("s3://models/publicity", "s3://models/public/../private/x")),
    *(
        ("s3", uri)
        for uri in ("s3://models/public/./x", "s3://models/public//../x", "models/public")
    ),
    *(("s3", uri) for uri in ("S3://models/public", "s3://Models/public", "s3:/models/public/x")),
    *(
        ("s3", uri)
        for uri in ("s3://x@models/public", "s3://models:80/public", "s3://169.254.169.254/")
    ),
    *(("s3", uri) for uri in ("s3://models/public/x?versionId=1", "s3://models/public/%2e%2e/x")),
    *(("s3", uri) for uri in ("file:///etc", "simplecache::s3://models/public/x", "/etc", "s3://")),
    *(("s3", uri) for uri in ("s3://models/public/x\n", "s3://models/public/\0", "http://evil/x")),
    *(
        ("path", uri)
        for uri in ("/etc", "..", "../..", "~", "file:///etc", "http://evil/x", "red\0")
    ),
    *(
        ("path", uri)
        for uri in ("s3://models/public/x", "trusted/x", "a/" * 2000, "hf://trusted/x")
    ),
]


def test_nothing_is_asked_of_where_nothing_was_allowed(sourced: RunningServer, hub: Trap) -> None:
    for kind, uri in OUTSIDE:
        answer = create(sourced, {"type": kind, "uri": uri})
        error = answer.json().get("error") or answer.json()["operation"]["error"]
        allowed = ("source_not_allowed", "path_not_allowed", "adapter_not_found", "invalid_value")
        assert error["code"] in allowed, (kind, uri, answer.text)
    assert not hub.seen


@pytest.mark.parametrize("kind", ["http", "https", "ftp", "git", "data", "directory", "static", ""])
def test_there_are_no_other_kinds_of_source(sourced: RunningServer, hub: Trap, kind: str) -> None:
    answer = create(sourced, {"type": kind, "uri": hub.url})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "source.type")
    assert not hub.seen


@pytest.mark.parametrize(
    "revision",
    ["../../../whoami-v2", "main?x=y", "main#x", "%2e%2e%2f..", "a b", "a\r\nX: y", "\u2025", "@"],
)
def test_a_revision_stays_within_its_repository(
    sourced: RunningServer, hub: Trap, revision: str
) -> None:
    """Whatever the Hub then says that the revision is."""
    create(sourced, {"type": "hf", "uri": "trusted/mine", "revision": revision})
    for path, _ in hub.seen:
        assert path.startswith(("/api/models/trusted/mine", "/trusted/mine/resolve/")), path
        assert "/../" not in path
        assert "?x=y" not in path
    assert all(each.parent == state_of(sourced) for each in state_of(sourced).glob("*"))


def test_the_token_goes_to_the_hub_and_not_where_it_sends_us(
    sourced: RunningServer, hub: Trap, make_trap: Any
) -> None:
    other: Trap = make_trap()
    hub.redirect, hub.commit = other.url, "f" * 40
    create(sourced, {"type": "hf", "uri": "trusted/mine"})
    assert other.seen
    assert all(authorization is None for _, authorization in other.seen)


def test_no_token_is_told_or_kept(sourced: RunningServer, hub: Trap) -> None:
    create(sourced, {"type": "hf", "uri": "trusted/mine"})
    assert hub.seen[-1][1] == f"Bearer {TOKEN}"
    assert TOKEN not in sourced.get(ADAPTERS).text
    files = [each for each in state_of(sourced).rglob("*") if each.is_file()]
    assert files
    assert not any(TOKEN.encode() in each.read_bytes() for each in files)


def test_what_is_kept_is_its_owners(sourced: RunningServer) -> None:
    assert stat.S_IMODE(state_of(sourced).stat().st_mode) == 0o700


INJECTED = [
    *("'; DROP TABLE adapters; --", "red' OR '1'='1", 'red"; --', "red\0", "red%", "re?", "*"),
    *("../red", "red/../blue", f"{BASE}", "red:x", "red@1", "red\n", "\x1b[2J", "x" * 128 + "y"),
]


@pytest.mark.parametrize("name", INJECTED, ids=ascii)
def test_no_name_is_code_to_the_registry(sourced: RunningServer, name: str) -> None:
    source = {"type": "path", "uri": "red"}
    answer = create(sourced, source, name)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")
    assert create(sourced, source, "after").status_code == 200
    names = [each["name"] for each in sourced.get(ADAPTERS).json()["data"]]
    assert {"after", "blue", "red"} <= set(names)
    assert name not in names


VERSIONS = [
    *("red@0", "red@-1", "red@", "red@v", "red@1.0", "red@1e0", "red@ 1", "red@1 ", "red@+1"),
    *("red@01", "red@\u0661", "red@99999999999999999999", "red@1@1", "@1", "red@v1v", "red@latest"),
    *("red@1\n", "red@1\0", "red@1/../..", "red@{}", "red@1,2", "red@V1"),
]


@pytest.mark.parametrize("version", VERSIONS, ids=ascii)
def test_no_version_but_a_number_is_one(sourced: RunningServer, version: str) -> None:
    assert sourced.complete("x", model="red@1").status_code == 200
    assert sourced.complete("x", model=version).status_code == 404
    deleted = sourced.http.delete(f"{ADAPTERS}/{version}".replace("\n", "%0a").replace("\0", "%00"))
    assert deleted.status_code == 404, deleted.text
    assert sourced.complete("x", model="red@1").status_code == 200


@pytest.mark.parametrize(
    "weights",
    [
        *({}, [], None, {"1": 0}, {"1": -1}, {"1": 1e999}, {"1": "1"}, {"1": True}, {"0": 1}),
        *({"-1": 1}, {"1": 1, "v1": 1}, {"9" * 5000: 1}, {"\u0661": 1}, {"1": 1, "__class__": 1}),
        {str(i): 1 for i in range(1, 100_000)},
    ],
    ids=lambda weights: str(weights)[:20],
)
def test_weights_that_are_none(sourced: RunningServer, weights: object) -> None:
    answer = sourced.http.put(f"{ADAPTERS}/red/alias", content=_json({"weights": weights}))
    assert answer.status_code in (400, 415)
    answer = sourced.http.put(
        f"{ADAPTERS}/red/alias",
        content=_json({"weights": weights}),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400, answer.text
    assert len(answer.content) < 2000


def test_a_tiny_and_a_huge_weight_overflow_nothing(sourced: RunningServer) -> None:
    for weight in (5e-324, 1e308, 1.7976931348623157e308):
        headers = {"Content-Type": "application/json"}
        body = _json({"weights": {"1": weight}})
        answer = sourced.http.put(f"{ADAPTERS}/red/alias", content=body, headers=headers)
        assert answer.status_code in (200, 400)
        assert sourced.complete("x", model="red").status_code == 200
        assert sourced.get(f"{ADAPTERS}/red").status_code == 200


@pytest.mark.parametrize("query", ["drain_timeout_s=nan", "drain_timeout_s=inf", "force=maybe"])
@pytest.mark.parametrize("more", ["", "&drain_timeout_s=-1", "&drain_timeout_s=1e999"])
def test_a_drain_has_bounds(sourced: RunningServer, query: str, more: str) -> None:
    answer = sourced.http.delete(f"{ADAPTERS}/red?{query}{more}")
    assert answer.status_code == 400
    assert sourced.complete("x", model="red").status_code == 200


def test_deleting_deletes_no_file_of_an_adapter_directory(
    start_server: StartServer, adapters_dir: Path
) -> None:
    with start_server(adapter_dir=adapters_dir) as server:
        create(server, {"type": "path", "uri": "red"}, "copy")
        for name in ("copy", "red", "blue"):
            assert server.http.delete(f"{ADAPTERS}/{name}?force=true").status_code == 200
    assert {each.name for each in adapters_dir.iterdir()} == {"red", "blue"}
    assert all((each / "weights").exists() for each in adapters_dir.iterdir())


@pytest.mark.parametrize("operation", ["..", "0", "%00", "%0a", "x" * 4000, "'", "{}", "..%2f.."])
def test_operations_that_there_are_not(sourced: RunningServer, operation: str) -> None:
    answer = raw(sourced, f"GET /admin/v1/operations/{operation} HTTP/1.1")
    assert answer.status == 404


def test_no_id_of_an_event_is_too_long() -> None:
    log = EventLog()
    log.add("pin", {})
    [run, _] = log.id_of(next(iter(log._events))).split("-")
    for number in ("9" * 5000, "-1", "1_0", "\u0661", "", "1" * 19):
        assert log.position(f"{run}-{number}") == 0
    assert log.position(f"{run}-1") == 1


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
