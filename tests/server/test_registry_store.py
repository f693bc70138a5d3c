"""The registry's file: what comes back, who may open it, and what is said of one that is broken."""

import asyncio
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from motet.core.errors import ConfigError
from motet.core.messages import AdapterInfo
from motet.server.adapter import Adapter, Part, Source, SourceType, Version, VersionState
from motet.server.registry_store import SCHEMA_VERSION, RegistryStore

INFO = AdapterInfo("ab" * 32, 8, ["q", "v"], 1000, 3)


def version(name: str, number: int, **more: object) -> Version:
    source = Source(SourceType.HF, "org/repo", "f" * 40)
    made = Version(name, number, source, Path("/srv/x"), 1700000000, "key-1")
    return replace(made, **more)  # type: ignore[arg-type]


def some_adapter(name: str = "team/mine") -> Adapter:
    first = version(name, 1, state=VersionState.READY, info=INFO)
    second = version(name, 2, state=VersionState.FAILED, reason="bad weights", path=None)
    third = version(name, 3, state=VersionState.READY, info=INFO, created_by=None)
    adapter = Adapter(name, is_pinned=True)
    for each in (first, second, third):
        adapter = adapter.put(each)
    return adapter.point({1: 1.0}).point({1: 0.95, 3: 0.05})


def with_store(directory: Path, work: Callable[[RegistryStore], Awaitable[None]]) -> None:
    async def run() -> None:
        with closing(RegistryStore(directory)) as store:
            await work(store)

    asyncio.run(run())


def loaded(directory: Path) -> tuple[list[Adapter], set[str]]:
    found: list[tuple[list[Adapter], set[str]]] = []

    async def load(store: RegistryStore) -> None:
        found.append(await store.load())

    with_store(directory, load)
    return found[0]


def test_all_of_an_adapter_comes_back(tmp_path: Path) -> None:
    adapter = some_adapter()

    async def save(store: RegistryStore) -> None:
        await store.save(Adapter("other").put(version("other", 1)).point({1: 1}))
        await store.save(adapter.point({3: 1}))
        await store.save(adapter)

    with_store(tmp_path, save)
    adapters, forgotten = loaded(tmp_path)
    assert [each.name for each in adapters] == ["other", "team/mine"]
    assert adapters[1] == adapter
    assert forgotten == set()


def test_what_drains_is_gone_and_forgotten_names_stay_so(tmp_path: Path) -> None:
    async def save(store: RegistryStore) -> None:
        await store.save(some_adapter())
        await store.save(some_adapter().drain({3}))
        for name in ("red", "blue"):
            await store.save(some_adapter(name))
            await store.remove(name, forget=True)
        await store.save(Adapter("red").put(version("red", 1)))  # not yet what its name means
        await store.save(some_adapter("blue"))

    with_store(tmp_path, save)
    adapters, forgotten = loaded(tmp_path)
    mine = adapters[0]
    assert list(mine.versions) == [1, 2]
    assert mine.alias is not None
    assert mine.alias.weights == {1: 1.0}
    assert forgotten == {"red"}


def test_parts_come_back_in_their_order_and_to_the_last_bit(tmp_path: Path) -> None:
    parts = (Part("z", 3, "cd" * 32, 0.1), Part("a", 12, "ef" * 32, -1 / 3))
    source = Source(SourceType.COMPOSITION, "z@3+a@12")
    composed = version("blend", 2, source=source, path=None, parts=parts, info=INFO)
    adapter = Adapter("blend").put(version("blend", 1)).put(composed).point({2: 1.0})

    async def save(store: RegistryStore) -> None:
        await store.save(adapter)
        await store.save(Adapter("gone").put(version("gone", 1, parts=parts)))
        await store.remove("gone", forget=False)
        await store.save(adapter)

    with_store(tmp_path, save)
    assert loaded(tmp_path)[0] == [adapter]
    with closing(sqlite3.connect(tmp_path / "registry.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM parts").fetchone() == (2,)


def test_a_file_from_before_compositions_is_taken_over(tmp_path: Path) -> None:
    adapter = some_adapter()

    async def save(store: RegistryStore) -> None:
        await store.save(adapter)

    with_store(tmp_path, save)
    with closing(sqlite3.connect(tmp_path / "registry.sqlite")) as db, db:
        db.execute("DROP TABLE parts")
        db.execute("UPDATE schema_version SET version = 1")
    for _ in range(2):
        assert loaded(tmp_path)[0] == [adapter]
    with closing(sqlite3.connect(tmp_path / "registry.sqlite")) as db:
        assert db.execute("SELECT version FROM schema_version").fetchone() == (SCHEMA_VERSION,)


def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    async def save(store: RegistryStore) -> None:
        await store.save(some_adapter())
        for path in (tmp_path, *tmp_path.iterdir()):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    with_store(tmp_path, save)


def test_a_second_server_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    async def other(store: RegistryStore) -> None:
        with pytest.raises(ConfigError, match="Another server uses") as caught:
            RegistryStore(tmp_path)
        assert caught.value.param == "state_dir"

    with_store(tmp_path, other)
    with_store(tmp_path, RegistryStore.load)


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_file_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "registry.sqlite").write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged"):
        RegistryStore(tmp_path)
    # It is not locked by the attempt.
    (tmp_path / "registry.sqlite").unlink()
    with_store(tmp_path, RegistryStore.load)


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    with_store(tmp_path, RegistryStore.load)
    with closing(sqlite3.connect(tmp_path / "registry.sqlite")) as db, db:
        db.execute("UPDATE schema_version SET version = ?", (SCHEMA_VERSION + 1,))
    with pytest.raises(ConfigError, match=rf"schema {SCHEMA_VERSION + 1}; this Motet writes"):
        RegistryStore(tmp_path)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        RegistryStore(tmp_path / "file" / "state")
