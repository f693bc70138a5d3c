"""The registry on disk: names, versions, aliases with their history, pins, forgotten names.

Owns: the SQLite file, its schema, its lock, and what goes into which row.
Does not know: the engine; what an adapter holds there ends with the process and is not kept.

Each change of a name is one transaction, on disk when `save` returns. All of it runs in one
thread, so that the event loop never waits for the disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from motet.core.errors import ConfigError
from motet.core.messages import AdapterInfo
from motet.server.adapter import (
    Adapter,
    Alias,
    Part,
    Source,
    SourceType,
    Version,
    VersionState,
    Weights,
)

SCHEMA_VERSION = 2

_SCHEMA_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE adapters (
    name TEXT PRIMARY KEY, next_number INTEGER NOT NULL, is_pinned INTEGER NOT NULL,
    alias TEXT, etag TEXT, history TEXT NOT NULL
);
CREATE TABLE versions (
    name TEXT NOT NULL, number INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT,
    source_type TEXT NOT NULL, source_uri TEXT NOT NULL, source_revision TEXT,
    path TEXT, digest TEXT, info TEXT, created_at INTEGER NOT NULL, created_by TEXT,
    PRIMARY KEY (name, number)
);
CREATE TABLE forgotten (name TEXT PRIMARY KEY);
"""
# From each version to the next.
_MIGRATIONS = {
    1: """
CREATE TABLE parts (
    name TEXT NOT NULL, number INTEGER NOT NULL, place INTEGER NOT NULL,
    part_name TEXT NOT NULL, part_number INTEGER NOT NULL, digest TEXT NOT NULL,
    weight REAL NOT NULL,
    PRIMARY KEY (name, number, place)
);
UPDATE schema_version SET version = 2;
"""
}

ResultT = TypeVar("ResultT")


class RegistryStore:
    """The file `registry.sqlite` in a directory that only this user can enter.

    Args:
        directory: is made if it is missing.

    Raises:
        ConfigError: another server uses it, it cannot be used, or the file is damaged or newer.
    """

    def __init__(self, directory: Path) -> None:
        try:
            self._lock = _locked(directory)
            try:
                self._db = _opened(directory / "registry.sqlite")
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise ConfigError(
                f"--state-dir {directory} cannot be used: {error.strerror}.", param="state_dir"
            ) from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")

    async def load(self) -> tuple[list[Adapter], set[str]]:
        """All adapters, without what they held in the engine, and the forgotten names."""
        return await self._run(self._load)

    async def save(self, adapter: Adapter) -> None:
        """Keep all of a name but its draining versions; with an alias it is not forgotten."""
        await self._run(lambda: self._save(adapter))

    async def remove(self, name: str, *, forget: bool) -> None:
        """Drop all of a name, and with `forget` keep that it must not be found again."""
        await self._run(lambda: self._remove(name, forget))

    def close(self) -> None:
        """Wait for what is being written, and let another server have the directory."""
        self._thread.shutdown()
        self._db.close()
        os.close(self._lock)

    async def _run(self, work: Callable[[], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _load(self) -> tuple[list[Adapter], set[str]]:
        adapters = {}
        columns = "name, next_number, is_pinned, alias, etag, history"
        for row in self._db.execute(f"SELECT {columns} FROM adapters ORDER BY rowid"):
            adapters[row["name"]] = _adapter(row)
        parts: dict[tuple[str, int], list[Part]] = {}
        for row in self._db.execute("SELECT * FROM parts ORDER BY name, number, place"):
            parts.setdefault((row["name"], row["number"]), []).append(_part(row))
        for row in self._db.execute("SELECT * FROM versions ORDER BY name, number"):
            version = _version(row, parts.get((row["name"], row["number"]), ()))
            adapters[version.name] = adapters[version.name].put(version)
        forgotten = {row["name"] for row in self._db.execute("SELECT name FROM forgotten")}
        return list(adapters.values()), forgotten

    def _save(self, adapter: Adapter) -> None:
        alias = adapter.alias
        with self._db:
            self._db.execute(
                "INSERT INTO adapters VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "next_number = excluded.next_number, is_pinned = excluded.is_pinned, "
                "alias = excluded.alias, etag = excluded.etag, history = excluded.history",
                (
                    adapter.name,
                    adapter.next_number,
                    adapter.is_pinned,
                    None if alias is None else _json(alias.weights),
                    None if alias is None else alias.etag,
                    _json(adapter.history),
                ),
            )
            self._delete_versions(adapter.name)
            kept = [each for each in adapter.versions.values() if not each.is_draining]
            self._db.executemany(
                "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_row(each) for each in kept],
            )
            self._db.executemany(
                "INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)",
                [row for each in kept for row in _part_rows(each)],
            )
            if alias is not None:
                self._db.execute("DELETE FROM forgotten WHERE name = ?", (adapter.name,))

    def _remove(self, name: str, forget: bool) -> None:
        with self._db:
            self._db.execute("DELETE FROM adapters WHERE name = ?", (name,))
            self._delete_versions(name)
            if forget:
                self._db.execute("INSERT OR IGNORE INTO forgotten VALUES (?)", (name,))

    def _delete_versions(self, name: str) -> None:
        self._db.execute("DELETE FROM versions WHERE name = ?", (name,))
        self._db.execute("DELETE FROM parts WHERE name = ?", (name,))


def _locked(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigError(
            f"Another server uses --state-dir {directory}. Give each server a directory of its "
            "own, or stop the other one.",
            param="state_dir",
        ) from None
    return lock


def _opened(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, check_same_thread=False)
    db.row_factory = sqlite3.Row
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("its pages do not fit together")
        _migrate(db, path)
    except sqlite3.Error as error:
        db.close()
        raise ConfigError(
            f"The registry {path} is damaged ({error}). Put a copy of it in its place, or move "
            "it away and load the adapters again.",
            param="state_dir",
        ) from error
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        db.executescript(f"BEGIN; {_SCHEMA_1} COMMIT;")
    [version] = db.execute("SELECT version FROM schema_version").fetchone()
    while version in _MIGRATIONS:
        db.executescript(f"BEGIN; {_MIGRATIONS[version]} COMMIT;")
        version += 1
    if version != SCHEMA_VERSION:
        db.close()
        raise ConfigError(
            f"The registry {path} has schema {version}; this Motet writes schema "
            f"{SCHEMA_VERSION}. Start the Motet that wrote it, or choose another --state-dir.",
            param="state_dir",
        )


def _row(version: Version) -> tuple[object, ...]:
    source, path = version.source, version.path
    return (
        version.name,
        version.number,
        version.state.value,
        version.reason,
        source.type.value,
        source.uri,
        source.revision,
        None if path is None else os.fspath(path),
        version.digest,
        None if version.info is None else _json(version.info),
        version.created_at,
        version.created_by,
    )


def _part_rows(version: Version) -> Iterator[tuple[object, ...]]:
    for place, part in enumerate(version.parts):
        identity = (part.name, part.number, part.digest, part.weight)
        yield (version.name, version.number, place, *identity)


def _part(row: sqlite3.Row) -> Part:
    return Part(row["part_name"], row["part_number"], row["digest"], row["weight"])


def _version(row: sqlite3.Row, parts: Sequence[Part]) -> Version:
    return Version(
        name=row["name"],
        number=row["number"],
        source=Source(SourceType(row["source_type"]), row["source_uri"], row["source_revision"]),
        path=None if row["path"] is None else Path(row["path"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        state=VersionState(row["state"]),
        reason=row["reason"],
        info=None if row["info"] is None else msgspec.json.decode(row["info"], type=AdapterInfo),
        parts=tuple(parts),
    )


def _adapter(row: sqlite3.Row) -> Adapter:
    weights, history = row["alias"], row["history"]
    return Adapter(
        row["name"],
        alias=None if weights is None else Alias(_weights(weights), row["etag"]),
        history=tuple(msgspec.json.decode(history, type=tuple[dict[int, float], ...])),
        next_number=row["next_number"],
        is_pinned=bool(row["is_pinned"]),
    )


def _weights(text: str) -> Weights:
    return msgspec.json.decode(text, type=dict[int, float])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
