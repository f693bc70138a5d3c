"""Routed sets whose configuration leads elsewhere, or is none."""

import os
from pathlib import Path

import pytest

from tests.security.conftest import StartServer
from tests.server.conftest import write_adapters, write_set
from tests.server.fake_engine import digest_of
from tests.server.test_admin_adapters import create


@pytest.fixture
def sets_dir(tmp_path: Path) -> Path:
    """Two adapters, and a set of them: "mix"."""
    directory = write_adapters(tmp_path / "adapters")
    write_set(directory / "mix", {"red": b"red", "blue": b"blue"})
    return directory


@pytest.mark.parametrize(
    "path",
    ["../red", "/etc", "experts/../../red", "link", "", ".", "..", "nothing", "a\0b", "x" * 5000],
)
def test_paths_of_experts_stay_in_the_sets_directory(
    start_server: StartServer, sets_dir: Path, path: str
) -> None:
    """Also where a link leads to what could be named: a set's files are its own."""
    experts = [{"name": "red", "digest": digest_of(b"red"), "path": path}]
    write_set(sets_dir / "mix", {}, experts=experts)
    os.symlink(sets_dir / "red", sets_dir / "mix" / "link")
    with start_server(adapter_dir=sets_dir) as server:
        answer = server.complete(model="mix")
        assert answer.status_code in (400, 403, 404), answer.text
        assert server.events("LoadAdapter") == []
        assert server.complete(model="red").status_code == 200


@pytest.mark.parametrize("name", ["../red", "", "/red", "red@1", "tiny", "tiny:red", "a\0b", "mix"])
def test_names_of_experts_are_names_of_adapters(
    start_server: StartServer, sets_dir: Path, name: str
) -> None:
    write_set(sets_dir / "mix", {name: b"red"})
    with start_server(adapter_dir=sets_dir) as server:
        assert server.complete(model="mix").status_code in (400, 404)
        assert server.events("LoadAdapter") == []


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 10_000, b'{"experts": 3}', b"link", b"huge"]
)
def test_configurations_that_are_none(
    start_server: StartServer, sets_dir: Path, text: bytes, tmp_path: Path
) -> None:
    config = sets_dir / "mix" / "router_config.json"
    if text == b"link":
        config.rename(tmp_path / "elsewhere.json")
        config.symlink_to(tmp_path / "elsewhere.json")
    elif text == b"huge":
        os.truncate(config, 100 << 20)
    else:
        config.write_bytes(text)
    with start_server(adapter_roots=(sets_dir,)) as server:
        answer = create(server, "mix", str(sets_dir / "mix"))
        assert answer.status_code in (400, 403), answer.text
        assert "elsewhere" not in answer.text
        assert server.events("LoadAdapter") == []
        assert server.complete(model="mix").status_code == 404
