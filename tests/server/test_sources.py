"""Adapters from elsewhere: a stand-in for the Hub and a server that speaks S3, both on loopback."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from motet.adapters.router_config import ROUTER_CONFIG_NAME
from motet.core.errors import AdapterError, ConfigError
from motet.server import downloads as downloads_module
from motet.server.adapter import Source, SourceType
from motet.server.config import ServeConfig
from motet.server.downloads import Downloads
from motet.server.source_files import ADAPTER_FILES as FILES
from motet.server.sources import Sources
from tests.server.conftest import StartServer, write_set
from tests.server.fake_engine import digest_of
from tests.server.running_server import RunningServer, wait_until
from tests.server.test_admin_adapters import ADAPTERS, adapter, code, delete

COMMIT, NEXT_COMMIT = "a" * 40, "b" * 40


class FakeHub(BaseHTTPRequestHandler):
    """One repository, org/mine, whose branch main is a commit that moves."""

    main = COMMIT
    contents = {COMMIT: b"first", NEXT_COMMIT: b"second"}  # noqa: RUF012
    set_config: bytes | None = None  # it is a routed set, with the contents as its expert's
    is_slow = threading.Event()  # the files of the first commit come once it is cleared

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if parts[:4] == ["api", "models", "org", "mine"]:
            revision = parts[5] if len(parts) > 5 else "main"
            sha = self.main if revision == "main" else revision
            if sha in self.contents:
                self._answer(200, json.dumps({"id": "org/mine", "sha": sha}).encode())
                return
            self._answer(404, b"{}", "RevisionNotFound")
        elif parts[:3] == ["org", "mine", "resolve"] and self.set_config is not None:
            self._answer_file_of_set("/".join(parts[4:]), self.contents[parts[3]])
        elif parts[:3] == ["org", "mine", "resolve"] and parts[4] in FILES:
            while self.is_slow.is_set() and parts[3] == COMMIT:
                time.sleep(0.01)
            body = b"{}" if parts[4] == FILES[0] else self.contents[parts[3]]
            self._answer(200, body)
        else:
            self._answer(404, b"{}", "RepoNotFound")

    def _answer_file_of_set(self, file: str, content: bytes) -> None:
        if file == ROUTER_CONFIG_NAME:
            assert self.set_config is not None
            self._answer(200, self.set_config)
        elif file.startswith("experts/inner/") or file == "router.safetensors":
            self._answer(200, content)
        else:
            self._answer(404, b"{}", "EntryNotFound")

    def _answer(self, status: int, body: bytes, error: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if error is not None:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    class Hub(FakeHub):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def create(server: RunningServer, source: dict[str, Any], **more: object) -> Any:
    return server.post(ADAPTERS, {"name": "mine", "source": source, "wait": True, **more})


def hf(uri: str = "org/mine", **more: object) -> dict[str, Any]:
    return {"type": "hf", "uri": uri, **more}


def test_a_repository_is_fetched_at_the_commit_that_it_is_now(
    start_server: StartServer, hub: type[FakeHub], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"hub_orgs": ("org",), "state_dir": tmp_path / "state"}
    with start_server(**options) as server:
        assert create(server, hf()).status_code == 200
        hub.main = NEXT_COMMIT
        assert create(server, hf(), sha256=digest_of(b"second")).status_code == 200
        assert create(server, hf(revision=COMMIT), activate=False).status_code == 200
        shown = adapter(server, "mine")
        assert [each["source"]["revision"] for each in shown["versions"]] == [COMMIT, NEXT_COMMIT]
        assert [each["digest"] for each in shown["versions"]] == [
            digest_of(b"first"),
            digest_of(b"second"),
        ]
        assert shown["alias"]["weights"] == {"2": 1.0}
        folders = list((tmp_path / "state" / "downloads").iterdir())
        assert len(folders) == 2
        assert all(
            sorted(each.name for each in folder.iterdir()) == sorted(FILES) for folder in folders
        )
        assert delete(server, "mine@1").status_code == 200
        assert len(list((tmp_path / "state" / "downloads").iterdir())) == 1
    (tmp_path / "state" / "downloads" / ".partial-left-over").mkdir()
    hub.contents = {}
    with start_server(**options) as server:  # what was fetched needs no network
        assert server.complete(model="mine").status_code == 200
        assert len(list((tmp_path / "state" / "downloads").iterdir())) == 1


@pytest.mark.parametrize("method", ["meteora", "arrow"])
def test_a_set_comes_with_the_experts_that_lie_in_it(
    start_server: StartServer,
    hub: type[FakeHub],
    adapters_dir: Path,
    tmp_path: Path,
    method: str,
) -> None:
    """And no other file; an expert of another name is the server's own."""
    inside = {"name": "inner", "digest": digest_of(b"first"), "path": "experts/inner"}
    files = [ROUTER_CONFIG_NAME, *(f"experts/inner/{file}" for file in FILES)]
    if method == "meteora":
        files.append("router.safetensors")
    write_set(
        tmp_path / "set",
        {},
        method=method,
        experts=[inside, {"name": "red", "digest": digest_of(b"red")}],
    )
    hub.set_config = (tmp_path / "set" / ROUTER_CONFIG_NAME).read_bytes()
    with start_server(
        hub_orgs=("org",), adapter_dir=adapters_dir, state_dir=tmp_path / "state"
    ) as server:
        assert create(server, hf("org/mine")).status_code == 200
        assert server.complete(model="mine").status_code == 200
        assert adapter(server, "mine")["versions"][0]["routing"]["method"] == method
        [folder] = (tmp_path / "state" / "downloads").iterdir()
        found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        assert sorted(map(str, found)) == sorted(files)
        assert delete(server, "mine").status_code == 200
        assert list((tmp_path / "state" / "downloads").iterdir()) == []


@pytest.mark.parametrize("path", ["../../../elsewhere", "/elsewhere", "a/../../..", "..", ""])
def test_a_set_writes_nothing_outside_its_folder(tmp_path: Path, path: str) -> None:
    write_set(tmp_path, {}, experts=[{"name": "x", "digest": digest_of(b"x"), "path": path}])
    config = (tmp_path / ROUTER_CONFIG_NAME).read_bytes()
    asked: list[str] = []

    class Hostile:
        def pinned(self, source: Source) -> Source:
            return source

        def chunks(self, source: Source, file: str) -> Iterator[bytes]:
            asked.append(file)
            if file == FILES[0]:
                raise AdapterError("no adapter", code="adapter_not_found")
            yield config

    downloads = Downloads(tmp_path / "downloads")
    with pytest.raises(AdapterError):
        asyncio.run(downloads.fetch(Hostile(), Source(SourceType.HF, "org/x")))
    assert asked == [FILES[0], ROUTER_CONFIG_NAME]
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_slow_load_does_not_take_the_name_from_a_later_one(
    start_server: StartServer, hub: type[FakeHub], tmp_path: Path
) -> None:
    hub.is_slow.set()
    try:
        with start_server(hub_orgs=("org",), state_dir=tmp_path / "state") as server:
            slow = create(server, hf(revision=COMMIT), wait=False).json()["operation"]
            assert create(server, hf(revision=NEXT_COMMIT)).status_code == 200
            hub.is_slow.clear()
            operation = f"/admin/v1/operations/{slow['id']}"
            wait_until(lambda: server.get(operation).json()["state"] == "succeeded")
            shown = adapter(server, "mine")
            assert [each["state"] for each in shown["versions"]] == ["ready", "ready"]
            assert shown["alias"]["weights"] == {"2": 1.0}
    finally:
        hub.is_slow.clear()


def test_what_the_hub_has_not(
    start_server: StartServer, hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_server(hub_orgs=("org",), state_dir=tmp_path / "state") as server:
        for source in (hf("org/other"), hf(revision="c" * 40)):
            assert code(create(server, source)) == (404, "adapter_not_found")
        assert code(create(server, hf(), sha256="0" * 64)) == (400, "digest_mismatch")
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        refused = create(server, hf())
        assert code(refused) == (503, "source_unavailable")
        assert "does not answer" in refused.json()["error"]["message"]
        assert refused.json()["error"]["param"] == "source"


@pytest.mark.parametrize(
    "source",
    [
        hf("other/mine"),
        hf("org"),
        hf("org/../x"),
        hf("org/mine/x"),
        hf("http://127.0.0.1/org/mine"),
        {"type": "s3", "uri": "s3://bucket/private/x"},
        {"type": "s3", "uri": "s3://bucket/adapters-of-others/x"},
        {"type": "s3", "uri": "s3://bucket/adapters/../private"},
        {"type": "s3", "uri": "s3://bucket2/adapters/x"},
        {"type": "s3", "uri": "s3://bucket/adapters/*"},
        {"type": "s3", "uri": "file:///etc"},
        {"type": "path", "uri": "/etc"},
    ],
)
def test_nothing_is_fetched_that_was_not_allowed(source: dict[str, Any]) -> None:
    sources = Sources((), ("org",), ("s3://bucket/adapters/",))
    with pytest.raises(AdapterError) as caught:
        asyncio.run(sources.locate(Source(SourceType(source["type"]), source["uri"]), "source"))
    assert caught.value.code in ("source_not_allowed", "path_not_allowed")


def test_what_was_allowed_is() -> None:
    sources = Sources((), ("org",), ("s3://bucket/adapters/", "s3://whole"))
    for kind, uri in (
        (SourceType.HF, "org/mine"),
        (SourceType.S3, "s3://bucket/adapters/x/y"),
        (SourceType.S3, "s3://whole/x"),
    ):
        assert asyncio.run(sources.locate(Source(kind, uri), "source")) is None


def test_fetching_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--state-dir"):
        ServeConfig(hub_orgs=("org",))
    with pytest.raises(ConfigError, match="should be s3://"):
        ServeConfig(buckets=("bucket",), state_dir=tmp_path)


class Endless:
    """Files without an end."""

    def pinned(self, source: Source) -> Source:
        return source

    def chunks(self, source: Source, file: str) -> Iterator[bytes]:
        while True:
            yield b"x" * 1000


@pytest.mark.parametrize(
    ("limit", "value", "expected"),
    [
        ("MAX_DOWNLOAD_BYTES", 10_000, "adapter_too_large"),
        ("DOWNLOAD_TIMEOUT_S", 0.0, "source_unavailable"),
    ],
)
def test_a_download_has_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, expected: str
) -> None:
    monkeypatch.setattr(downloads_module, limit, value)
    with pytest.raises(AdapterError) as caught:
        asyncio.run(Downloads(tmp_path).fetch(Endless(), Source(SourceType.HF, "org/mine")))
    assert caught.value.code == expected
    assert list(tmp_path.iterdir()) == []


class Stuck:
    """Files that do not come."""

    def __init__(self) -> None:
        self.has_gone_on = False
        self.released = threading.Event()

    def pinned(self, source: Source) -> Source:
        self.released.wait(20)
        self.has_gone_on = True
        return source

    def chunks(self, source: Source, file: str) -> Iterator[bytes]:
        yield b"x"


def test_downloads_that_hang_hold_nobody_up(tmp_path: Path) -> None:
    """Neither others that need a thread of the event loop's, nor the end of the server."""
    files = Stuck()

    async def use() -> None:
        downloads = Downloads(tmp_path)
        sources = [Source(SourceType.HF, f"org/{number}") for number in range(64)]
        fetches = [asyncio.ensure_future(downloads.fetch(files, each)) for each in sources]
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.to_thread(list), 10)
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)

    asyncio.run(use())
    assert not files.has_gone_on
    files.released.set()


def test_what_is_used_is_not_swept_however_its_directory_is_spelt(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path / "state" / "downloads")
    for name in ("used", "unused"):
        (tmp_path / "state" / "downloads" / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    downloads.sweep({tmp_path / "link" / "downloads" / "used"})
    assert [each.name for each in (tmp_path / "state" / "downloads").iterdir()] == ["used"]


def test_only_downloads_are_discarded(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path / "downloads")
    own, other = tmp_path / "downloads" / "x", tmp_path / "other"
    for path in (own, other):
        path.mkdir()
        asyncio.run(downloads.discard(path))
    assert (own.exists(), other.exists()) == (False, True)


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    from s3fs import S3FileSystem

    files = S3FileSystem(skip_instance_cache=True)
    files.mkdir("bucket")
    return files


@pytest.mark.slow
def test_objects_are_fetched_and_their_change_is_a_new_version(
    start_server: StartServer, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"type": "s3", "uri": "s3://bucket/adapters/mine"}
    options: dict[str, Any] = {
        "buckets": ("s3://bucket/adapters",),
        "state_dir": tmp_path / "state",
    }
    with start_server(**options) as server:
        assert code(create(server, source)) == (404, "adapter_not_found")
        for content in (b"first", b"second"):
            bucket.pipe(f"bucket/adapters/mine/{FILES[0]}", b"{}")
            bucket.pipe(f"bucket/adapters/mine/{FILES[1]}", content)
            for _ in range(2):
                assert create(server, source).status_code == 200
        versions = adapter(server, "mine")["versions"]
        assert [each["digest"] for each in versions if each["digest"]] == [
            digest_of(b"first"),
            digest_of(b"second"),
        ]
        assert server.complete(model="mine").headers["x-adapter-version"] == "2"
        inside = {"name": "x", "digest": digest_of(b"third"), "path": "x"}
        write_set(tmp_path / "set", {}, method="arrow", experts=[inside])
        config = (tmp_path / "set" / ROUTER_CONFIG_NAME).read_bytes()
        bucket.pipe(f"bucket/adapters/set/{ROUTER_CONFIG_NAME}", config)
        of_set = {**source, "uri": "s3://bucket/adapters/set"}
        assert code(create(server, of_set, name="set")) == (404, "adapter_not_found")
        for file, content in zip(FILES, (b"{}", b"third"), strict=True):
            bucket.pipe(f"bucket/adapters/set/x/{file}", content)
        assert create(server, of_set, name="set").status_code == 200
        assert server.complete(model="set").status_code == 200
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert code(create(server, source)) == (503, "source_unavailable")
