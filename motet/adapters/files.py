"""Safe reading of a few files of one directory, as one consistent state.

Owns: which paths are followed, what may be opened, size limits, and that nothing changed meanwhile.
Does not know: the formats of the files, nor what they mean. No torch: the API process reads the
configurations of routers.

Files are read into memory, not mapped: a mapped file that is truncated while in use kills the
process.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from motet.adapters.roots import confine, quote
from motet.core.errors import AdapterError


def resolve(directory: Path, root: Path | None, *, is_resolved: bool = False) -> Path:
    """Where a path leads.

    Args:
        directory: the path.
        root: it must lie under this, links resolved; None is anywhere.
        is_resolved: the path was resolved when it was confined to the allowed roots. A symbolic
            link in it has been put there since, and is not followed.

    Raises:
        AdapterError: there is nothing, it lies outside `root`, or it was changed.
    """
    if root is not None:
        resolved = confine(directory, [root])
    else:
        try:
            resolved = directory.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise AdapterError(
                f"There is no directory at {quote(str(directory))}. Check the path.",
                code="adapter_not_found",
            ) from None
    if is_resolved and resolved != directory:
        raise changed(directory)
    return resolved


def names_in(directory: Path) -> set[str]:
    """The names of what lies in a directory. Raises AdapterError if it cannot be listed."""
    try:
        return set(os.listdir(directory))
    except OSError as error:
        raise AdapterError(
            f"The adapter directory cannot be listed: {error.strerror}. Check its permissions."
        ) from None


def read_together(directory: Path, root: Path, limits: Mapping[str, int]) -> list[bytes]:
    """The contents of files that belong together, in the order of their names.

    All are open before any is read, and must still be the ones at their paths afterwards: a
    directory that is replaced meanwhile cannot give one file of one adapter and one of another.

    Args:
        directory: where they lie, resolved.
        root: where symbolic links among them may lead.
        limits: names of files that are there, and the most bytes that each may have.

    Raises:
        AdapterError: a file leads outside, is not a regular one, is too large, cannot be read, or
            was changed.
    """
    located = [_confine_file(directory, name, root) for name in limits]
    with ExitStack() as stack:
        files = [stack.enter_context(RegularFile(path)) for path in located]
        contents = [file.read(n) for file, n in zip(files, limits.values(), strict=True)]
        try:
            if [_confine_file(directory, name, root) for name in limits] != located:
                raise changed(directory)
        except AdapterError:
            raise changed(directory) from None
        for file in files:
            file.check_in_place()
    return contents


def _confine_file(directory: Path, name: str, root: Path) -> Path:
    try:
        return confine(directory / name, [root])
    except AdapterError as error:
        # The same answer for a link that leads out and for a broken one, and no path in it:
        # neither tells what lies outside.
        raise AdapterError(
            f"{name} is a symbolic link that is broken or leads out of the allowed directory. "
            "Copy the file itself into the adapter's directory.",
            code=error.code,
        ) from None


def changed(path: Path) -> AdapterError:
    """The error for a file or directory that did not stay as it was."""
    return AdapterError(
        f"{quote(path.name)} was changed while it was being read. Load it again once the upload "
        "has finished.",
        code="corrupt_adapter",
    )


class RegularFile:
    """One open descriptor on a regular file at a resolved path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # O_NOFOLLOW: the path is resolved, so a link here was put there since. O_NONBLOCK: opening
        # a named pipe would wait for a writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags)
        except OSError as error:
            raise AdapterError(
                f"{quote(path.name)} cannot be opened: {error.strerror}. Check its permissions."
            ) from None
        self._opened = os.fstat(self._fd)
        if not stat.S_ISREG(self._opened.st_mode):
            os.close(self._fd)
            raise AdapterError(f"{quote(path.name)} is not a regular file.")

    def __enter__(self) -> "RegularFile":
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._fd)

    def read(self, max_bytes: int) -> bytes:
        """The whole content. Raises AdapterError if it is too large or changed meanwhile."""
        size = self._opened.st_size
        if size > max_bytes:
            raise AdapterError(
                f"{quote(self._path.name)} has {size} bytes; at most {max_bytes} are read."
            )
        try:
            with open(self._fd, "rb", closefd=False) as file:
                content = file.read(size + 1)
        except OSError as error:
            raise AdapterError(
                f"{quote(self._path.name)} cannot be read: {error.strerror}.",
                code="corrupt_adapter",
            ) from None
        if len(content) != size or _version(os.fstat(self._fd)) != _version(self._opened):
            raise changed(self._path)
        return content

    def check_in_place(self) -> None:
        """Raise AdapterError unless this file, unchanged, is still what lies at its path."""
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except OSError:
            raise changed(self._path) from None
        if _version(there) != _version(self._opened):
            raise changed(self._path)


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
