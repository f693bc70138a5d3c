"""What a version takes in the engine, and gives back: a reference and a pin.

Owns: the order in which these are taken and given back.
Does not know: what keeps two loads of one version apart (`registry.py`), when one is needed, nor
where files lie (`version_files.py`).

To the engine a composition is nothing but its parts, so a version that is one takes a reference
on each of them. These are its own: what becomes of the parts' versions does not touch them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from motet.core.errors import AdapterError
from motet.core.messages import AdapterInfo
from motet.server.adapter import Hold, Part, SourceType, Version, VersionState
from motet.server.catalogue import Catalogue
from motet.server.composition import composed_info
from motet.server.engine_client import AdapterReference, EngineClient
from motet.server.errors import adapter_refusal
from motet.server.version_files import FileFinder

# Where it was read, what it is, and the references that this took.
_Loaded = tuple[Path | None, AdapterInfo, tuple[AdapterReference, ...]]


class Holdings:
    """References and pins in the running engine.

    Args:
        files: finds what is to be read.
        catalogue: has the parts of compositions.
    """

    def __init__(self, client: EngineClient, files: FileFinder, catalogue: Catalogue) -> None:
        self._client = client
        self._files = files
        self._catalogue = catalogue

    def has(self, version: Version) -> bool:
        """Whether the running engine holds it."""
        return version.hold is not None and all(map(self._client.holds, version.hold.references))

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
            path, info, references = await (
                self._load_parts(version.parts) if version.parts else self._load_files(version)
            )
        except AdapterError as error:
            raise _unusable(version, error, param) from error
        if version.digest not in (None, info.digest):
            self._release_all(references)
            raise _changed(version, param)
        return replace(
            version,
            path=path,
            info=info,
            hold=Hold(references),
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
        pinned: list[AdapterReference] = []
        try:
            for reference in version.hold.references:
                await self._client.pin_adapter(reference)
                pinned.append(reference)
        except BaseException as error:
            self._unpin_all(pinned)
            if isinstance(error, AdapterError):
                raise adapter_refusal(error.message, param, code=error.code) from error
            raise
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
        self._unpin_all(version.hold.references)
        return replace(version, hold=replace(version.hold, is_pinned=False))

    def release(self, version: Version) -> Version:
        """Give back all that a version holds; requests that run on it end as they began."""
        if version.hold is None:
            return version
        if version.hold.is_pinned:
            self._unpin_all(version.hold.references)
        self._release_all(version.hold.references)
        return replace(version, hold=None)

    async def _load_files(self, version: Version) -> _Loaded:
        files = await self._files.find(version)
        reference = await self._client.load_adapter(files.path, files.expert_paths)
        return files.path, reference.info, (reference,)

    async def _load_parts(self, parts: Sequence[Part]) -> _Loaded:
        """All parts at once, or none."""
        loads = [
            asyncio.create_task(self._load_part(part, place))
            for place, part in enumerate(parts, start=1)
        ]
        try:
            references = tuple(await asyncio.gather(*loads))
        except BaseException:
            for load in loads:
                load.cancel()
            ended = await asyncio.gather(*loads, return_exceptions=True)
            self._release_all([each for each in ended if isinstance(each, AdapterReference)])
            raise
        infos = [reference.info for reference in references]
        weights = [part.weight for part in parts]
        return None, composed_info(list(zip(infos, weights, strict=True))), references

    async def _load_part(self, part: Part, place: int) -> AdapterReference:
        # Errors do not name the part: who may use a composition need not know what is in it.
        version = self._catalogue.version(part.name, part.number)
        if version is None:
            raise AdapterError(f"its part {place} is not there", code="adapter_not_found")
        _, info, (reference,) = await self._load_files(version)
        if info.digest != part.digest:
            self._client.release_adapter(reference)
            raise AdapterError(
                f"its part {place} has other files than when it was composed",
                code="adapter_unavailable",
            )
        return reference

    def _unpin_all(self, references: Sequence[AdapterReference]) -> None:
        for reference in references:
            self._client.unpin_adapter(reference)

    def _release_all(self, references: Sequence[AdapterReference]) -> None:
        for reference in references:
            self._client.release_adapter(reference)


def _unusable(version: Version, error: AdapterError, param: str) -> AdapterError:
    if version.digest is None:
        # Else it is what was asked for.
        is_named = version.source.type in (SourceType.DIRECTORY, SourceType.COMPOSITION)
        prefix = f"The adapter {version.name!r} cannot be loaded: " if is_named else ""
        return adapter_refusal(prefix + error.message, param, code=error.code)
    whence = "" if version.parts else " from its files"
    return adapter_refusal(
        f"The adapter {version.name!r} (version {version.number}) cannot be brought back{whence}: "
        f"{error.message}",
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
