"""The registry over an engine that only counts: whatever admins, requests and crashes do to it."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from motet.core.errors import AdapterError, MotetError
from motet.core.messages import AdapterInfo
from motet.server.adapter import Source, SourceType
from motet.server.adapter_admin import AdapterAdmin
from motet.server.deployments import Deployment
from motet.server.engine_client import AdapterReference
from motet.server.principal import ANYONE
from motet.server.registry import AdapterRegistry
from motet.server.registry_store import RegistryStore
from motet.server.resolved import Resolved
from motet.server.sources import Sources
from motet.server.stored_compositions import pinned_parts
from tests.server.conftest import write_adapter
from tests.server.fake_engine import digest_of

NAMES = st.sampled_from(["a", "b"])
ALL_NAMES = st.sampled_from(["a", "b", "mix"])
FOLDERS = st.sampled_from(["red", "blue", "green", "broken", "missing"])
NUMBERS = st.integers(1, 4)
VERSIONS = st.sampled_from(["a@1", "a@2", "b@1"])
WEIGHTS = st.sampled_from([1.0, 0.5, -2.0])
MAX_PINNED = 1

ResultT = TypeVar("ResultT")


class CountingEngine:
    """Stands in for an EngineClient: it counts what each of its lives holds."""

    def __init__(self) -> None:
        self.num_starts = 1
        self.references: Counter[str] = Counter()
        self.pins: Counter[str] = Counter()
        self.on_restart: Any = None

    def require_ready(self) -> None:
        pass

    def holds(self, reference: AdapterReference | None) -> bool:
        return reference is not None and reference.engine == self.num_starts

    async def load_adapter(self, path: Path) -> AdapterReference:
        await asyncio.sleep(0)
        content = (path / "weights").read_bytes()
        if content == b"bad":
            raise AdapterError("bad weights")
        digest = digest_of(content)
        self.references[digest] += 1
        return AdapterReference(AdapterInfo(digest, 8, ["q"], 10, 1), path, self.num_starts)

    def release_adapter(self, reference: AdapterReference) -> None:
        if self.holds(reference):
            digest = reference.info.digest
            self.references[digest] -= 1
            assert self.references[digest] >= 0, "given back twice"

    async def pin_adapter(self, reference: AdapterReference) -> None:
        await asyncio.sleep(0)
        digest = reference.info.digest
        assert self.references[digest] > 0, "only what is held may be pinned"
        if len(+self.pins | Counter([digest])) > MAX_PINNED:
            raise AdapterError("too many pins", code="pins_exceed_pool")
        self.pins[digest] += 1

    def unpin_adapter(self, reference: AdapterReference) -> None:
        if self.holds(reference):
            self.pins[reference.info.digest] -= 1
            assert self.pins[reference.info.digest] >= 0, "unpinned twice"

    def die(self) -> None:
        self.num_starts += 1
        self.references.clear()
        self.pins.clear()


class RegistryMachine(RuleBasedStateMachine):
    """One event loop, one state directory, and a registry that is opened again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp())
        for name in ("red", "blue", "green"):
            write_adapter(self.directory / "adapters" / name, name.encode())
        write_adapter(self.directory / "adapters" / "broken", b"bad")
        self.meanings: dict[str, str] = {}  # digest by version, as long as its name lives
        self.requests: list[Resolved] = []
        self.open()

    def open(self) -> None:
        roots = (self.directory / "adapters",)
        self.engine = CountingEngine()
        self.store = RegistryStore(self.directory / "state")
        self.registry = AdapterRegistry(self.engine, "base", roots, None, self.store)  # type: ignore[arg-type]
        self.admin = AdapterAdmin.over(self.engine, self.registry, Sources(roots))  # type: ignore[arg-type]
        self.run(self.registry.records.restore())
        self.run(self.registry.load_required())

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return self.loop.run_until_complete(work)

    def settle(self) -> None:
        """Let drains whose requests have ended come to their end."""
        for _ in range(5):
            self.run(asyncio.sleep(0.001))

    @rule(name=NAMES, folder=FOLDERS, activate=st.booleans(), pin=st.sampled_from([None, True]))
    def deploy(self, name: str, folder: str, activate: bool, pin: bool | None) -> None:
        source = Source(SourceType.PATH, folder)
        deployment = Deployment(name, source, activate=activate, pin=pin)
        if self.does_deploy(deployment):
            assert folder not in ("broken", "missing")

    @rule(
        name=ALL_NAMES,
        parts=st.dictionaries(st.one_of(NAMES, VERSIONS), WEIGHTS, min_size=1, max_size=2),
        pin=st.sampled_from([None, True]),
    )
    def compose(self, name: str, parts: dict[str, float], pin: bool | None) -> None:
        try:
            pinned = self.run(pinned_parts(self.registry, name, parts))
        except MotetError:
            return
        source = Source(SourceType.COMPOSITION, "+".join(parts))
        self.does_deploy(Deployment(name, source, pinned, pin=pin))

    def does_deploy(self, deployment: Deployment) -> bool:
        before = self.registry.catalogue.get(deployment.name)

        async def work() -> None:
            operation = await self.admin.deployments.start(deployment)
            await operation.wait()

        try:
            self.run(work())
        except MotetError:
            after = self.registry.catalogue.get(deployment.name)
            assert (before and before.alias) == (after and after.alias)
            return False
        return True

    @rule(name=NAMES, data=st.data())
    def point(self, name: str, data: st.DataObject) -> None:
        adapter = self.registry.catalogue.get(name)
        numbers = [9] if adapter is None else sorted(adapter.versions)
        targets = data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=3))
        with suppress(MotetError):
            self.run(self.admin.changes.point(name, dict.fromkeys(targets, 1.0), None))

    @rule(name=NAMES)
    def canary(self, name: str) -> None:
        """Several versions at once are what makes a change take several steps."""
        for folder in ("red", "blue"):
            self.deploy(name, folder, True, None)
        if (adapter := self.registry.catalogue.get(name)) is not None:
            numbers = [each.number for each in adapter.versions.values() if each.digest]
            with suppress(MotetError):
                self.run(self.admin.changes.point(name, dict.fromkeys(numbers, 1.0), None))

    @rule(name=NAMES)
    def roll_back(self, name: str) -> None:
        with suppress(MotetError):
            self.run(self.admin.changes.roll_back(name, None))

    @rule(name=ALL_NAMES, verb=st.sampled_from(["pin", "unpin"]))
    def pin(self, name: str, verb: str) -> None:
        with suppress(MotetError):
            self.run(getattr(self.admin.changes, verb)(name))

    @rule(name=ALL_NAMES, number=st.one_of(st.none(), NUMBERS), force=st.booleans())
    def delete(self, name: str, number: int | None, force: bool) -> None:
        work = self.admin.changes.delete(
            name, number, force=force, drain_timeout_s=3600, param="name"
        )
        with suppress(MotetError):
            self.run(work)

    @rule(
        model=st.one_of(NAMES, VERSIONS, st.sampled_from(["mix", "a+b", "a@1+a@2", "mix+a"])),
        key=st.integers(0, 9),
    )
    def request(self, model: str, key: int) -> None:
        async def work() -> Resolved:
            resolved = await self.registry.resolve(model, ANYONE, str(key))
            await self.registry.ensure_loaded(resolved)
            return resolved

        with suppress(MotetError):
            self.requests.append(self.run(work()))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def end_request(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.requests) - 1))
        lease = self.requests.pop(index).lease
        assert lease is not None
        lease.end()

    @rule()
    def engine_dies(self) -> None:
        self.engine.die()
        self.run(self.registry.load_required())

    @rule()
    def server_is_killed(self) -> None:
        """Nothing is given back, and nothing but the store goes on."""
        before = {
            adapter.name: (adapter.alias, adapter.history)
            for adapter in self.registry.catalogue.all()
            if not adapter.is_gone
        }
        self.requests.clear()
        self.admin.close()
        self.settle()
        self.store.close()
        self.open()
        after = {
            adapter.name: (adapter.alias, adapter.history)
            for adapter in self.registry.catalogue.all()
        }
        assert after == before

    @invariant()
    def every_hold_is_in_the_engine_and_nothing_else_is(self) -> None:
        self.settle()
        held: Counter[str] = Counter()
        pinned: Counter[str] = Counter()
        for adapter in self.registry.catalogue.all():
            for version in adapter.versions.values():
                if version.hold is not None and self.registry.holdings.has(version):
                    for reference in version.hold.references:
                        held[reference.info.digest] += 1
                        pinned[reference.info.digest] += version.hold.is_pinned
        assert held == +self.engine.references
        assert +pinned == +self.engine.pins

    @invariant()
    def what_is_pinned_is_on_the_device(self) -> None:
        for adapter in self.registry.catalogue.all():
            for number, version in adapter.versions.items():
                is_wanted = adapter.is_pinned and number in adapter.targets
                assert self.registry.holdings.has_pinned(version) == is_wanted

    @invariant()
    def a_version_never_changes_what_it_means(self) -> None:
        there = {
            version.id: version.digest
            for adapter in self.registry.catalogue.all()
            for version in adapter.versions.values()
            if version.digest is not None
        }
        for version_id, digest in there.items():
            assert self.meanings.get(version_id, digest) == digest
        self.meanings = there

    @invariant()
    def an_alias_names_only_what_was_ready(self) -> None:
        for adapter in self.registry.catalogue.all():
            for number in adapter.targets:
                assert adapter.versions[number].digest is not None
                assert not adapter.versions[number].is_draining
            for weights in adapter.history:
                assert weights.keys() <= adapter.versions.keys()

    @invariant()
    def a_running_request_has_its_version(self) -> None:
        for resolved in self.requests:
            for use in resolved.uses:
                version = self.registry.names.version(use.version_id)
                assert version is not None
                assert version.digest is not None

    @invariant()
    def what_a_composition_is_made_of_is_there(self) -> None:
        for adapter in self.registry.catalogue.all():
            for version in adapter.versions.values():
                if version.is_draining or version.digest is None:  # it was never ready
                    continue
                for part in version.parts:
                    found = self.registry.catalogue.version(part.name, part.number)
                    assert found is not None
                    assert not found.is_draining
                    assert found.digest == part.digest

    def teardown(self) -> None:
        for resolved in self.requests:
            assert resolved.lease is not None
            resolved.lease.end()
        versions = [
            version
            for adapter in self.registry.catalogue.all()
            for version in adapter.versions.values()
        ]
        for version in sorted(versions, key=lambda each: not each.parts):  # nothing needs these
            self.delete(version.name, version.number, True)
        self.settle()
        assert self.registry.catalogue.all() == []
        assert +self.engine.references == Counter()
        assert +self.engine.pins == Counter()
        self.admin.close()
        self.store.close()
        self.loop.close()
        shutil.rmtree(self.directory)


TestRegistry = pytest.mark.slow(RegistryMachine.TestCase)
TestRegistry.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
