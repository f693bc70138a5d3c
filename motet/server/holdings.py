"""What a version takes in the engine, and gives back: a reference and a pin.

Owns: the order in which these are taken and given back.
Does not know: which versions there are, what keeps two loads of one apart (`registry.py`), nor
where files lie (`version_files.py`).
"""

from __future__ import annotations

from dataclasses import replace

from motet.core.errors import AdapterError
from motet.server.adapter import Hold, SourceType, Version, VersionState
from motet.server.engine_client import EngineClient
from motet.server.errors import adapter_refusal
from motet.server.version_files import FileFinder


class Holdings:
    """References and pins in the running engine.

    Args:
        files: finds what is to be read.
    """

    def __init__(self, client: EngineClient, files: FileFinder) -> None:
        self._client = client
        self._files = files

    def has(self, version: Version) -> bool:
        """Whether the running engine holds it."""
        return version.hold is not None and self._client.holds(version.hold.reference)

    def has_pinned(self, version: Version) -> bool:
        """Whether the running engine holds it and keeps it on the device."""
        return self.has(version) and version.hold is not None and version.hold.is_pinned

    async def load(self, version: Version, param: str) -> Version:
        """Load a version: whatever lies at its path at first, the same content ever after.

        Args:
            param: the field that named it, for errors.

        Raises:
            AdapterError: it cannot be loaded; `adapter_unavailable` if it could be before.
            MotetError: the engine died meanwhile.
        """
        try:
            files = await self._files.find(version)
            reference = await self._client.load_adapter(files.path, files.expert_paths)
        except AdapterError as error:
            raise _unusable(version, error, param) from error
        if version.digest not in (None, reference.info.digest):
            self._client.release_adapter(reference)
            raise _changed(version, param)
        return replace(
            version,
            path=files.path,
            info=reference.info,
            hold=Hold(reference),
            state=VersionState.DRAINING if version.is_draining else VersionState.READY,
            reason=None,
        )

    async def pin(self, version: Version, param: str) -> Version:
        """Pin a held version; waits until it is on the device.

        Raises:
            AdapterError: pins would leave too little of the pool.
            MotetError: the engine died meanwhile.
        """
        assert version.hold is not None
        try:
            await self._client.pin_adapter(version.hold.reference)
        except AdapterError as error:
            raise adapter_refusal(error.message, param, code=error.code) from error
        return replace(version, hold=replace(version.hold, is_pinned=True))

    async def warm(self, version: Version) -> None:
        """Bring a held version to the device and leave it there, free to be evicted.

        Where pins have taken all that they may, it stays in host memory. Raises MotetError if
        the engine dies meanwhile.
        """
        try:
            pinned = await self.pin(version, "name")
        except AdapterError:
            return
        self.unpin(pinned)

    def unpin(self, version: Version) -> Version:
        """Take the pin back."""
        assert version.hold is not None
        self._client.unpin_adapter(version.hold.reference)
        return replace(version, hold=replace(version.hold, is_pinned=False))

    def release(self, version: Version) -> Version:
        """Give back all that a version holds; requests that run on it end as they began."""
        if version.hold is None:
            return version
        if version.hold.is_pinned:
            self._client.unpin_adapter(version.hold.reference)
        self._client.release_adapter(version.hold.reference)
        return replace(version, hold=None)


def _unusable(version: Version, error: AdapterError, param: str) -> AdapterError:
    if version.digest is None:
        named = version.source.type is SourceType.DIRECTORY  # else it is what was asked for
        prefix = f"The adapter {version.name!r} cannot be loaded: " if named else ""
        return adapter_refusal(prefix + error.message, param, code=error.code)
    return adapter_refusal(
        f"The adapter {version.name!r} (version {version.number}) cannot be brought back from "
        f"its files: {error.message}",
        param,
        code="adapter_unavailable",
    )


def _changed(version: Version, param: str) -> AdapterError:
    return adapter_refusal(
        f"The files of the adapter {version.name!r} (version {version.number}) changed since it "
        "was loaded; load it again (with load_inplace, or as a new version) to serve the new ones.",
        param,
        code="adapter_unavailable",
    )
