"""The file of keys: read, checked, and rewritten as a whole.

Owns: its format, and that no reader ever sees half of a change and no change is lost.
Does not know: the server that follows it (`key_ring.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from motet.core.errors import ConfigError
from motet.server.keys import Key

_MODE = 0o600  # digests open nothing, but who may write the file decides who gets in
_READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH

_log = structlog.get_logger()


class _Keys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1]
    keys: list[Key]


def read_keys(path: Path) -> list[Key]:
    """The keys in a file; warns if others than its owner may read or write it.

    Raises:
        ConfigError: there is no such file, it is not of this format, or two keys are alike.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        raise ConfigError(
            f"The file of keys {path} cannot be read: {error.strerror}. `motet keys create` makes "
            "one.",
            param="keys_file",
        ) from error
    if mode & _READABLE_BY_OTHERS:
        _log.warning("others may read or change the file of keys; chmod it to 600", path=str(path))
    try:
        keys = msgspec.json.decode(content, type=_Keys).keys
    except msgspec.DecodeError as error:  # a ValidationError too
        raise ConfigError(
            f"{path} is not a file of keys: {error}. `motet keys` writes them.", param="keys_file"
        ) from error
    _require_distinct(path, [key.id for key in keys], "id")
    _require_distinct(path, [key.sha256 for key in keys], "digest")
    return keys


def edit_keys(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    """Rewrite a file of keys in one step; one that is not there counts as empty.

    Changes by others at the same time come before this one or after it.

    Raises:
        ConfigError: the file is not one of keys, or cannot be written; whatever `change` raises.
    """
    path = path.resolve()
    try:
        with _exclusive(path.parent):
            keys = read_keys(path) if path.exists() else []
            _write(path, change(keys))
    except OSError as error:
        raise ConfigError(
            f"The file of keys {path} cannot be written: {error.strerror}.", param="keys_file"
        ) from error


def _write(path: Path, keys: list[Key]) -> None:
    content = msgspec.json.format(msgspec.json.encode(_Keys(version=1, keys=keys)), indent=2)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _MODE)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """One at a time. The lock is on the directory, for the file itself is replaced."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _require_distinct(path: Path, values: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"{path} has two keys of the {what} {value}.", param="keys_file")
        seen.add(value)
