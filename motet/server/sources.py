"""Where the files of a version may come from, and how they come to this machine.

Owns: what is allowed, and the directory of downloads.
Does not know: what is in an adapter, nor how bytes are fetched (`downloads.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from motet.adapters.roots import confine
from motet.core.errors import AdapterError
from motet.server.adapter import Source
from motet.server.errors import adapter_refusal


class Sources:
    """The sources that a server allows.

    Args:
        roots: directories below which a path may lie.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)

    async def locate(self, source: Source, param: str) -> Path | None:
        """The resolved directory of a source on this machine; None for one that must be fetched.

        Raises:
            AdapterError: the source is not allowed, or nothing is there; `param` names it.
        """
        return await _confined(source.uri, self._roots, param)

    async def locate_anywhere(self, path: Path, param: str) -> Path:
        """The resolved directory of what the operator gave. Raises as `locate`."""
        return await _confined(path.absolute(), (path.absolute(),), param)

    async def fetch(self, source: Source, param: str) -> tuple[Source, Path]:
        raise NotImplementedError


async def _confined(path: str | Path, roots: Sequence[Path], param: str) -> Path:
    try:
        return await asyncio.to_thread(confine, path, roots)
    except AdapterError as error:
        raise adapter_refusal(error.message, param, code=error.code) from error
