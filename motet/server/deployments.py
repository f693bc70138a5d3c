"""New versions of adapters: from a source to what a name means.

Owns: the steps from a wish to a version that serves, and what becomes of one that fails.
Does not know: HTTP, how files are fetched (`sources.py`), nor the steps in which a name changes
its meaning (`transitions.py`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from motet.core.errors import MotetError
from motet.server.adapter import (
    MAX_VERSIONS,
    Adapter,
    Part,
    Source,
    SourceType,
    Version,
    VersionState,
)
from motet.server.dependants import dependants_of
from motet.server.engine_client import EngineClient
from motet.server.errors import adapter_refusal, bad_request
from motet.server.expert_use import expert_digests
from motet.server.operations import Operation, Operations
from motet.server.registry import AdapterRegistry
from motet.server.sources import Sources
from motet.server.transitions import Fields, Transitions


@dataclass(frozen=True, slots=True)
class Deployment:
    """A new version that somebody wants.

    Attributes:
        parts: of a composition, whose source has no files.
        digest: what the content must be, if that is known.
        pin: keep what the name means on the device; None is as it was under this name.
        activate: the name means the new version, wholly, as soon as it is ready.
        warm: bring it to the device.
        may_replace: a name that is taken gets a new version; else it is refused.
        created_by: the id of the key that asks.
        keeps_failure: a version that fails stays visible, with the reason.
    """

    name: str
    source: Source
    parts: tuple[Part, ...] = ()
    digest: str | None = None
    pin: bool | None = None
    activate: bool = True
    warm: bool = False
    may_replace: bool = True
    created_by: str | None = None
    keeps_failure: bool = True
    fields: Fields = field(default_factory=Fields)


class Deployments:
    """Changes of a registry, one at a time for each name."""

    def __init__(
        self,
        client: EngineClient,
        registry: AdapterRegistry,
        transitions: Transitions,
        sources: Sources,
    ) -> None:
        self.operations = Operations()
        self._client = client
        self._names = registry.names
        self._records = registry.records
        self._holdings = registry.holdings
        self._leases = registry.leases
        self._transitions = transitions
        self._sources = sources

    async def start(self, deployment: Deployment) -> Operation:
        """Begin a deployment; the operation says how it ends.

        One whose digest is that of a version that there is has ended when this returns.

        Raises:
            AdapterError: the source is not allowed, or nothing is there.
            MotetError: the name is not allowed or taken, or the engine is not ready.
        """
        name, fields = deployment.name, deployment.fields
        self._names.require_usable(name, fields.name)
        self._client.require_ready()
        await self._names.look_up(name)
        path = None
        if not deployment.parts:
            path = await self._sources.locate(deployment.source, fields.source)
        # With the parts' names, so that no part goes before it is known that this needs it.
        async with self._records.locked([name, *(part.name for part in deployment.parts)]):
            self._client.require_ready()
            self._require_parts(deployment)
            adapter = self._records.catalogue.get(name) or Adapter(name)
            known = adapter.with_digest(deployment.digest) if deployment.digest else None
            if known is not None:
                number = await self._reuse(adapter, known, deployment)
                operation = self.operations.start(name, number, _ended(number))
                await operation.wait()
                return operation
            number = await self._register(adapter, deployment, path)
        return self.operations.start(name, number, self._deploy(deployment, number))

    async def load_static(self, name: str, path: Path) -> None:
        """Load an adapter that the operator gave at start, from anywhere.

        A name that is known keeps its alias if it has this content already.

        Raises:
            MotetError: the name is not allowed or given twice, or it cannot be loaded.
        """
        known = self._records.catalogue.get(name)
        if known is not None and known.is_static:
            raise _name_taken(name, "lora_name")
        self._names.require_usable(name, "lora_name")
        source = Source(SourceType.STATIC, str(path.absolute()))
        deployment = Deployment(name, source, keeps_failure=False)
        resolved = await self._sources.locate_anywhere(path, "lora_path")
        async with self._records.lock(name):
            adapter = known or Adapter(name)
            number = await self._register(adapter, deployment, resolved)
        await self._deploy(deployment, number, is_static=True)

    def close(self) -> None:
        """End what is under way: the server ends."""
        self.operations.close()

    async def _register(self, adapter: Adapter, deployment: Deployment, path: Path | None) -> int:
        """Number a new version, and keep that it is on its way. Needs the name's lock."""
        adapter = _without_failures(adapter)
        unread = adapter.unread
        is_unread_folder = unread is not None and path is not None and path == unread.path
        if adapter.versions and not adapter.is_gone and not deployment.may_replace:
            only_found = unread is not None and len(adapter.versions) == 1
            if not (only_found and is_unread_folder):
                raise _name_taken(adapter.name, deployment.fields.name)
        if unread is not None and is_unread_folder:
            return unread.number
        version = Version(
            adapter.name,
            adapter.next_number,
            deployment.source,
            path,
            int(time.time()),
            deployment.created_by,
            parts=deployment.parts,
        )
        await self._records.commit(self._without_surplus(adapter.put(version)))
        return version.number

    def _require_parts(self, deployment: Deployment) -> None:
        """Raises MotetError (409): a part was deleted since it was chosen. Needs the locks."""
        for part in deployment.parts:
            version = self._records.catalogue.version(part.name, part.number)
            if version is None or version.is_draining:
                raise MotetError(
                    f"{part.version_id!r} was deleted meanwhile.",
                    code="adapter_deleted",
                    param=deployment.fields.source,
                )

    def _without_surplus(self, adapter: Adapter) -> Adapter:
        """Without the oldest versions, if there are too many that nothing and nobody needs."""
        if len(adapter.versions) <= MAX_VERSIONS:  # as nearly always
            return adapter
        experts = expert_digests(self._records.catalogue.all())

        def is_used(version: Version) -> bool:
            is_needed = self._leases.count(version.id) > 0 or version.digest in experts
            return is_needed or any(dependants_of(version, self._records.catalogue))

        for version in adapter.surplus(is_used):
            adapter = adapter.drop(version.number)
            self._leases.forget(version.id)
        return adapter

    async def _deploy(self, deployment: Deployment, number: int, *, is_static: bool = False) -> int:
        """Fetch, load and activate a registered version; the number that has its content."""
        name = deployment.name
        try:
            version = await self._fetched(deployment, number)
            async with self._records.lock(name):
                return await self._load_and_apply(deployment, version, is_static=is_static)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                async with self._records.lock(name):
                    await self._note_failure(deployment, number, error)
            raise

    async def _fetched(self, deployment: Deployment, number: int) -> Version:
        """The version with its files on this machine."""
        async with self._records.lock(deployment.name):
            version = self._show(deployment.name, number, VersionState.VALIDATING)
        if version.path is not None or version.parts:
            return version
        source, path = await self._sources.fetch(version.source, deployment.fields.source)
        return replace(version, source=source, path=path)

    async def _load_and_apply(
        self, deployment: Deployment, version: Version, *, is_static: bool
    ) -> int:
        """Needs the name's lock."""
        name, fields = deployment.name, deployment.fields
        self._show(name, version.number, VersionState.LOADING)
        loaded = await self._holdings.load(version, fields.source)
        adapter = self._records.catalogue.get(name)
        assert adapter is not None  # it has been shown just now
        try:
            _require_digest(deployment, loaded)
            assert loaded.digest is not None  # it has been read
            twin = adapter.with_digest(loaded.digest)
            after, kept = _with_loaded(adapter, loaded, twin)
            # What was given at the last start too may have been replaced since.
            is_settled = is_static and twin is not None and adapter.alias is not None
            # Of two loads the one that was asked for last has the name, whichever ends first.
            is_overtaken = any(number > version.number for number in adapter.targets)
            if deployment.activate and not is_settled and not is_overtaken:
                after = _activated(after, kept.number)
            if deployment.pin is not None:
                after = replace(after, is_pinned=deployment.pin)
            after = replace(after, is_static=adapter.is_static or is_static)
            if kept.number in after.targets or deployment.pin is not None:
                await self._transitions.apply(after, fields)
            else:  # the name means what it meant, which need not be loaded
                await self._records.commit(after)
        except BaseException:
            self._holdings.release(loaded)
            raise
        if twin is not None:
            self._holdings.release(twin)
        if deployment.warm:
            await self._holdings.warm(kept)
        return kept.number

    async def _reuse(self, adapter: Adapter, known: Version, deployment: Deployment) -> int:
        """Do what is asked for with a version that there is. Needs the name's lock."""
        after = _activated(adapter, known.number) if deployment.activate else adapter
        if deployment.pin is not None:
            after = replace(after, is_pinned=deployment.pin)
        if after != adapter:
            await self._transitions.apply(after, deployment.fields)
        if deployment.warm:
            await self._warm(adapter.name, known.number)
        return known.number

    async def _warm(self, name: str, number: int) -> None:
        """Bring a version to the device that may have left the engine. Needs the name's lock."""
        adapter = self._records.catalogue.get(name)
        assert adapter is not None  # its lock is held
        version = adapter.versions[number]
        if not self._holdings.has(version):
            version = await self._holdings.load(version, "source")
            self._records.show(adapter.put(version))
        await self._holdings.warm(version)

    def _show(self, name: str, number: int, state: VersionState) -> Version:
        """Show how far a version has come. Raises MotetError (409): it was deleted meanwhile."""
        adapter = self._records.catalogue.get(name)
        version = None if adapter is None else adapter.versions.get(number)
        if adapter is None or version is None or version.is_draining:
            raise MotetError(
                f"The adapter {name!r} was deleted before version {number} could be loaded.",
                code="adapter_deleted",
                param="name",
            )
        shown = replace(version, state=state, reason=None)
        self._records.show(adapter.put(shown))
        return shown

    async def _note_failure(
        self, deployment: Deployment, number: int, error: BaseException
    ) -> None:
        """The version has failed; what the name meant before it goes on. Needs the lock.

        One that has been read is none that failed: a request had it loaded meanwhile, or it was
        what came after the load that failed.
        """
        adapter = self._records.catalogue.get(deployment.name)
        version = None if adapter is None else adapter.versions.get(number)
        if adapter is None or version is None or version.is_draining:
            return
        if version.digest is not None:
            self._records.show(adapter.put(replace(version, state=VersionState.READY)))
            return
        reason = error.message if isinstance(error, MotetError) else "internal error"
        failed = adapter.put(replace(version, state=VersionState.FAILED, reason=reason))
        is_kept = deployment.keeps_failure or number in adapter.targets
        await self._records.commit(failed if is_kept else adapter.drop(number))


async def _ended(number: int) -> int:
    return number


def _with_loaded(
    adapter: Adapter, loaded: Version, twin: Version | None
) -> tuple[Adapter, Version]:
    """With a loaded version, and which one that is: content that is known is no new version.

    The version that there was takes over where the content lies now: its old place may be gone.
    """
    if twin is None:
        return adapter.put(loaded), loaded
    kept = replace(
        twin,
        source=loaded.source,
        path=loaded.path,
        info=loaded.info,  # of a routed set, what its experts are called now
        hold=loaded.hold,
        parts=loaded.parts,
        state=VersionState.READY,
        reason=None,
    )
    return adapter.drop(loaded.number).put(kept), kept


def _activated(adapter: Adapter, number: int) -> Adapter:
    """With a name that means this version; a folder that was found and never read means nothing."""
    unread = adapter.unread
    after = adapter.point({number: 1.0})
    return after if unread is None else after.drop(unread.number)


def _without_failures(adapter: Adapter) -> Adapter:
    """Without versions that never were ready and that nobody waits for."""
    for number, version in adapter.versions.items():
        has_failed = version.state is VersionState.FAILED and version.digest is None
        if has_failed and number not in adapter.targets:
            adapter = adapter.drop(number)
    return adapter


def _require_digest(deployment: Deployment, loaded: Version) -> None:
    if deployment.digest not in (None, loaded.digest):
        raise adapter_refusal(
            f"The adapter's digest is {loaded.digest}, not {deployment.digest}: these are other "
            "files than those that were meant.",
            "sha256",
            code="digest_mismatch",
        )


def _name_taken(name: str, param: str) -> MotetError:
    return bad_request(
        f"The LoRA adapter {name!r} has already been loaded. If you want to load the adapter in "
        "place, set 'load_inplace' to true.",
        param,
        code="adapter_already_loaded",
    )
