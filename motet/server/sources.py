"""Where the files of a version may come from, and how they come to this machine.

Owns: what is allowed.
Does not know: what is in an adapter, nor how bytes are fetched (`downloads.py` and its sources).

Nothing is allowed that the operator has not named: directories, organisations on the Hub,
prefixes of S3 buckets.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from motet.adapters.roots import confine
from motet.core.errors import AdapterError
from motet.server.adapter import Source, SourceType
from motet.server.downloads import Downloads, RemoteFiles
from motet.server.errors import adapter_refusal
from motet.server.hub_source import HubFiles
from motet.server.s3_source import S3Files

_REPOSITORY = re.compile(
    r"(?P<org>[A-Za-z0-9][A-Za-z0-9._-]{0,95})/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
)
_S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.=-]+)*/?")


class Sources:
    """The sources that a server allows.

    Args:
        roots: directories below which a path may lie.
        hub_orgs: organisations on the Hub whose repositories may be fetched.
        buckets: "s3://bucket/prefix", below which objects may be fetched.
        downloads: where fetched files are kept; None where nothing may be fetched.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        hub_orgs: Sequence[str] = (),
        buckets: Sequence[str] = (),
        downloads: Downloads | None = None,
    ) -> None:
        self._roots = tuple(roots)
        self._hub_orgs = frozenset(hub_orgs)
        self._buckets = tuple(bucket.rstrip("/") for bucket in buckets)
        self._downloads = downloads

    async def locate(self, source: Source, param: str) -> Path | None:
        """The resolved directory of a source on this machine; None for one that must be fetched.

        Raises:
            AdapterError: the source is not allowed, or nothing is there; `param` names it.
        """
        if source.type in (SourceType.PATH, SourceType.DIRECTORY):
            return await _confined(source.uri, self._roots, param)
        is_allowed = (
            self._allows_repository(source.uri)
            if source.type is SourceType.HF
            else self._allows_object(source.uri)
        )
        if not is_allowed:
            option = "--allow-hub-org" if source.type is SourceType.HF else "--allow-bucket"
            raise adapter_refusal(
                f"The source {source.uri!r} is not allowed on this server. An operator allows "
                f"sources with {option}.",
                param,
                code="source_not_allowed",
            )
        return None

    async def locate_anywhere(self, path: Path, param: str) -> Path:
        """The resolved directory of what the operator gave. Raises as `locate`."""
        return await _confined(path.absolute(), (path.absolute(),), param)

    async def fetch(self, source: Source, param: str) -> tuple[Source, Path]:
        """Bring the files of an allowed source here: the exact source, and their directory.

        Raises:
            AdapterError: there are no such files, they are too large, or the other side does not
                answer; `param` names the source.
        """
        assert self._downloads is not None  # a server that allows such sources has it
        files: RemoteFiles = HubFiles() if source.type is SourceType.HF else S3Files()
        try:
            return await self._downloads.fetch(files, source)
        except AdapterError as error:
            raise adapter_refusal(error.message, param, code=error.code) from error

    async def discard(self, path: Path) -> None:
        """Delete what was fetched to this directory; others are left alone."""
        if self._downloads is not None:
            await self._downloads.discard(path)

    def _allows_repository(self, uri: str) -> bool:
        match = _REPOSITORY.fullmatch(uri)
        return match is not None and match["org"] in self._hub_orgs

    def _allows_object(self, uri: str) -> bool:
        parts = uri.removeprefix("s3://").split("/")
        if _S3_URI.fullmatch(uri) is None or any(part in (".", "..") for part in parts):
            return False
        return any(uri == each or uri.startswith(f"{each}/") for each in self._buckets)


async def _confined(path: str | Path, roots: Sequence[Path], param: str) -> Path:
    try:
        return await asyncio.to_thread(confine, path, roots)
    except AdapterError as error:
        raise adapter_refusal(error.message, param, code=error.code) from error
