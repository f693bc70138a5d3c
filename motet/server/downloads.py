"""Files of adapters that come from elsewhere, kept on this machine.

Owns: the directory of downloads, and the limits on what one may take.
Does not know: what may be fetched (`sources.py`), nor any protocol (`hub_source.py`,
`s3_source.py`).

A download becomes visible as a whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, TypeVar

from motet.adapters.router_config import ROUTER_CONFIG_NAME
from motet.core.errors import AdapterError
from motet.server.adapter import Source
from motet.server.source_files import ADAPTER_FILES, files_of_set

MAX_DOWNLOAD_BYTES = 4 << 30
DOWNLOAD_TIMEOUT_S = 600.0

_MAX_AT_ONCE = 4  # the others wait their turn
_PARTIAL = ".partial-"

ResultT = TypeVar("ResultT")


class RemoteFiles(Protocol):
    """A place that has files of adapters. Its functions block.

    They raise AdapterError: `adapter_not_found`, or `source_unavailable` if nobody answers.
    """

    def pinned(self, source: Source) -> Source:
        """The source with the revision that it means now, which means the same ever after."""
        ...

    def chunks(self, source: Source, file: str) -> Iterator[bytes]:
        """A file's content, in pieces. A piece that does not come within seconds is an error."""
        ...


class Downloads:
    """A directory of downloads, one folder for each pinned source."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._turns = asyncio.Semaphore(_MAX_AT_ONCE)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def fetch(self, files: RemoteFiles, source: Source) -> tuple[Source, Path]:
        """Fetch a source, unless it is here: the pinned source, and its folder.

        Raises:
            AdapterError: as `RemoteFiles`, or it is too large or takes too long.
        """
        async with self._turns:
            return await _in_own_thread(lambda: self._fetch(files, source))

    async def discard(self, path: Path) -> None:
        """Delete a folder of this directory; any other is left alone."""
        if path.parent == self._directory:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    def sweep(self, used: Collection[Path]) -> None:
        """Delete all but these folders: what was interrupted, and what nobody knows any more.

        Folders are told apart by their names: this directory may have been spelt in another way
        when they were written down.
        """
        names = {path.name for path in used}
        for path in self._directory.iterdir():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)

    def _fetch(self, files: RemoteFiles, source: Source) -> tuple[Source, Path]:
        limit = _Limit(MAX_DOWNLOAD_BYTES, DOWNLOAD_TIMEOUT_S)
        pinned = files.pinned(source)
        path = self._directory / _folder(pinned)
        if path.is_dir():
            return pinned, path
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self._directory))
        try:
            _write_all(partial, lambda file: files.chunks(pinned, file), limit)
            _publish(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return pinned, path


async def _in_own_thread(work: Callable[[], ResultT]) -> ResultT:
    """Do what may wait for minutes on others.

    The event loop's threads are few and everybody's, and the process does not end before they
    have. This one ends with it, whatever it waits for.
    """
    outcome: Future[ResultT] = Future()
    outcome.set_running_or_notify_cancel()  # whoever gives up waiting does not stop it

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="download", daemon=True).start()
    return await asyncio.wrap_future(outcome)


class _Limit:
    """What one download may still take."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._num_bytes_left = max_bytes
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s

    def take(self, num_bytes: int) -> None:
        """Raises AdapterError if that is too much."""
        self._num_bytes_left -= num_bytes
        if self._num_bytes_left < 0:
            raise AdapterError(
                f"The adapter is larger than {self._max_bytes} bytes, which is all that this "
                "server downloads. Copy it to the server and load it from there.",
                code="adapter_too_large",
            )
        if time.monotonic() > self._deadline_s:
            raise AdapterError(
                f"The download took longer than {self._timeout_s:g} seconds. Try again, or copy "
                "the adapter to the server and load it from there.",
                code="source_unavailable",
            )


def _write_all(directory: Path, chunks_of: Callable[[str], Iterator[bytes]], limit: _Limit) -> None:
    """Write an adapter's files, or a routed set's where there is no adapter."""
    first, *others = ADAPTER_FILES
    try:
        _write(directory / first, chunks_of(first), limit)
    except AdapterError as error:
        if error.code != "adapter_not_found":
            raise
        (directory / first).unlink()
        _write(directory / ROUTER_CONFIG_NAME, chunks_of(ROUTER_CONFIG_NAME), limit)
        config = directory / ROUTER_CONFIG_NAME
        others = [each for each in files_of_set(config.read_bytes()) if each != config.name]
    for file in others:
        _write(directory / file, chunks_of(file), limit)


def _write(path: Path, chunks: Iterator[bytes], limit: _Limit) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for chunk in chunks:
            limit.take(len(chunk))
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _publish(partial: Path, path: Path) -> None:
    try:
        partial.rename(path)
    except OSError:
        if not path.is_dir():  # else another download of the same was quicker
            raise


def _folder(source: Source) -> str:
    text = f"{source.type.value}\0{source.uri}\0{source.revision}"
    return hashlib.sha256(text.encode()).hexdigest()[:40]
