"""Routed sets and their experts in the engine, under anything that may happen, in any order.

Owns: that a set is there as a whole or not at all: its references, pins, pages and requests.
Does not know: files and threads; what a load comes to, and when, the test says.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from motet.core.composition import composition_digest
from motet.core.errors import AdapterError
from motet.core.messages import (
    AbortRequest,
    AdapterInfo,
    AdapterLoaded,
    AdapterPinned,
    AdapterRefused,
    AddRequest,
    FromEngine,
    LoadAdapter,
    PinAdapter,
    ReleaseAdapter,
    RequestFailed,
    RoutedSetInfo,
    StepOutput,
    UnpinAdapter,
    WeightedAdapter,
)
from motet.core.routing import RoutingRule
from motet.core.sampling import SamplingParams
from motet.core.shape import Module
from motet.engine.adapters import EngineAdapters
from motet.engine.engine import Engine
from motet.engine.grammar import load_tokenizer
from motet.engine.grammar_compiler import GrammarCompiler
from motet.engine.loader import (
    CopyDone,
    CopyFailed,
    FetchDone,
    FetchFailed,
    LoaderEvent,
    ReadDone,
    ReadFailed,
    Took,
)
from motet.engine.pace import LoadPace
from motet.engine.read_adapter import Part, Source
from motet.engine.store import AdapterStore
from motet.memory.device_pool import PackedAdapter, row_capacity
from motet.memory.eviction import PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry, lay_out_adapter
from motet.memory.members import Members, Router
from motet.memory.residency import Placement
from motet.memory.unified import unified_memory
from motet.scheduler.scheduler import Scheduler
from tests.engine.harness import MAX_MODEL_LEN, SHAPE, FakeRunner

GEOMETRY = PageGeometry(SHAPE, 16)
RANKS = {"a": 4, "b": 20, "c": 40, "d": 4}
SETS = {  # experts and shared adapters; they have members in common, and one has one in both roles
    "s": (("a", "b"), ()),
    "t": (("b", "c", "d"), ("a",)),
    "u": (("a", "d", "d"), ("d",)),
}


def packed(rank: int, *, has_b: bool = True) -> PackedAdapter:
    ranks = {(layer, Module.DOWN): rank for layer in range(SHAPE.num_layers)}
    return PackedAdapter(lay_out_adapter(GEOMETRY, ranks, has_b=has_b), torch.empty(0))


def adapter_part(name: str) -> Part:
    copy = packed(RANKS[name])
    info = AdapterInfo(name, RANKS[name], ["down"], 1, copy.layout.num_pages)
    return Part(Source(f"/{name}"), copy, info)


def set_parts(name: str) -> list[Part]:
    experts, shared = SETS[name]
    members = [adapter_part(each) for each in dict.fromkeys((*experts, *shared))]
    gates = packed(len(experts), has_b=False)
    num_pages = gates.layout.num_pages + sum(part.info.num_pages for part in members)
    info = AdapterInfo(
        name, 4, ["down"], 1, num_pages, RoutedSetInfo("m", [*experts], [*experts], [*shared])
    )
    router = Router(name, RoutingRule(top_k=1), experts, len(experts), 1)
    of_set = Members(tuple(WeightedAdapter(each, 1.0) for each in shared), router)
    return [Part(Source(f"/{name}"), gates, info, of_set), *members]


PARTS = {
    **{name: [adapter_part(name)] for name in RANKS},
    **{name: set_parts(name) for name in SETS},
}


# What the loader refuses is not loaded: a set that fills the pool, an adapter beyond the budget.
MOST_PAGES = max(parts[0].info.num_pages for parts in PARTS.values())
MOST_HOST_PAGES = max(p.packed.layout.num_pages for each in PARTS.values() for p in each)


@dataclass
class Load:
    """A load that has begun: what it comes to, and what it fails with."""

    done: LoaderEvent
    failed: LoaderEvent


class FakeLoader:
    """Loads end when the test says so."""

    def __init__(self) -> None:
        self.pace = LoadPace()
        self.loads: list[Load] = []
        self._events: list[LoaderEvent] = []

    def read(self, operation_id: str, source: Source) -> None:
        done = ReadDone(operation_id, PARTS[source.path[1:]], Took(0.1, 0.1))
        self.loads.append(Load(done, ReadFailed(operation_id, AdapterError("broken"))))

    def fetch(self, digest: str, sources: list[Source]) -> None:
        assert Source(f"/{digest}") in sources
        done = FetchDone(digest, PARTS[digest][0].packed, Took(0.1, 0.1))
        self.loads.append(Load(done, FetchFailed(digest, "gone")))

    def copy(self, placement: Placement, copy: PackedAdapter) -> None:
        done = CopyDone(placement.digest, len(placement.pages), Took(0.1, 0.1))
        assert len(placement.pages) == copy.layout.num_pages
        self.loads.append(Load(done, CopyFailed(placement.digest, "no memory")))

    def end(self, index: int, *, succeeds: bool) -> None:
        load = self.loads.pop(index)
        self._events.append(load.done if succeeds else load.failed)

    def poll(self) -> list[LoaderEvent]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        pass


class SetLifeMachine(RuleBasedStateMachine):
    """Loads, releases, pins, requests, aborts and failures."""

    @initialize(
        num_pages=st.integers(MOST_PAGES + 1, 40),
        host_pages=st.integers(MOST_HOST_PAGES, 40),
        overlaps=st.booleans(),
    )
    def start(self, num_pages: int, host_pages: int, overlaps: bool) -> None:
        self.sent: list[FromEngine] = []
        self.num_taken = 0
        self.references: list[str] = []
        self.loading: dict[str, str] = {}  # names by operation
        self.pinning: dict[str, str] = {}
        self.live: set[str] = set()
        self.num_operations = 0
        costs = PageCosts()
        self.memory = unified_memory(
            GEOMETRY,
            SavingPolicy(costs),
            page_bytes=1,
            num_pages=num_pages,
            row_capacity=row_capacity(GEOMETRY, num_pages),
            host_budget_pages=host_pages,
        )
        self.scheduler = Scheduler(self.memory, max_step_tokens=40, max_running=3)
        self.loader, self.store = FakeLoader(), AdapterStore()
        self.adapters = EngineAdapters(
            store=self.store,
            loader=self.loader,  # type: ignore[arg-type]
            scheduler=self.scheduler,
            memory=self.memory,
            costs=costs,
            send=self.send,
        )
        self.engine = Engine(
            scheduler=self.scheduler,
            runner=FakeRunner(overlaps=overlaps),
            adapters=self.adapters,
            grammars=GrammarCompiler(lambda: load_tokenizer(None, 100, ()), lambda: None),
            memory=self.memory,
            costs=costs,
            max_model_len=MAX_MODEL_LEN,
            send=self.send,
        )

    def operation(self) -> str:
        self.num_operations += 1
        return f"o{self.num_operations}"

    def send(self, message: FromEngine) -> None:
        if isinstance(message, AdapterPinned):
            residency = self.memory.residency
            parts = PARTS[self.pinning[message.operation_id]]
            assert all(residency.is_resident(part.digest) for part in parts)
        self.sent.append(message)

    def take_answers(self) -> None:
        for message in self.sent[self.num_taken :]:
            match message:
                case AdapterLoaded(operation_id=operation):
                    self.references.append(self.loading.pop(operation))
                case AdapterRefused(operation_id=operation):
                    assert self.loading.pop(operation, None) or self.pinning.pop(operation)
                case AdapterPinned(operation_id=operation):
                    self.pinning.pop(operation)
                case RequestFailed(request_id=request_id):
                    self.live.discard(request_id)
                case StepOutput(outputs=outputs):
                    self.live -= {each.request_id for each in outputs if each.finish_reason}
                case _:
                    raise AssertionError(message)
        self.num_taken = len(self.sent)

    @rule(name=st.sampled_from([*PARTS, *SETS]))
    def load(self, name: str) -> None:
        operation = self.operation()
        self.loading[operation] = name
        self.engine.handle(LoadAdapter(operation, f"/{name}"))

    @precondition(lambda self: self.references)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.references))
        self.references.remove(name)
        self.engine.handle(ReleaseAdapter(name, f"/{name}"))
        self.take_answers()

    @rule(name=st.sampled_from([*PARTS]))
    def pin(self, name: str) -> None:
        operation = self.operation()
        self.pinning[operation] = name
        self.engine.handle(PinAdapter(operation, name))
        self.take_answers()

    @rule(name=st.sampled_from([*PARTS]))
    def unpin(self, name: str) -> None:
        self.engine.handle(UnpinAdapter(name))

    @rule(
        digest=st.none() | st.sampled_from([*PARTS, *SETS]),
        parts=st.just([]) | st.lists(st.sampled_from([*RANKS]), unique=True, max_size=3),
        num_tokens=st.integers(1, 60),
        max_tokens=st.integers(1, 20),
        is_finite=st.sampled_from([True, True, True, False]),
        priority=st.sampled_from([0, 0, 1]),
    )
    def add(
        self,
        digest: str | None,
        parts: list[str],
        num_tokens: int,
        max_tokens: int,
        is_finite: bool,
        priority: int,
    ) -> None:
        request_id = self.operation()
        weighted = [WeightedAdapter(part, 0.5) for part in parts]
        if parts:
            digest = composition_digest(weighted)
        self.live.add(request_id)
        prompt = [3 if is_finite else 99] * num_tokens
        sampling = SamplingParams(max_tokens=max_tokens)
        request = AddRequest(request_id, prompt, sampling, digest, None, priority, weighted)
        self.engine.handle(request)
        self.take_answers()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.live)))
        self.live.remove(request_id)
        self.engine.handle(AbortRequest(request_id))

    @rule(num_steps=st.integers(1, 5))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.engine.step()
            self.take_answers()

    @precondition(lambda self: self.loader.loads)
    @rule(data=st.data(), succeeds=st.sampled_from([True, True, True, False]))
    def end_load(self, data: st.DataObject, succeeds: bool) -> None:
        index = data.draw(st.integers(0, len(self.loader.loads) - 1))
        self.loader.end(index, succeeds=succeeds)
        self.engine.step()
        self.take_answers()

    @invariant()
    def sets_are_whole(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.scheduler.check()
        residency = self.memory.residency
        for name, parts in PARTS.items():
            holders = [each for each in PARTS if name in {p.digest for p in PARTS[each]}]
            is_referenced = any(each in self.references for each in holders)
            assert self.store.is_referenced(name) == is_referenced
            if is_referenced:
                assert all(residency.is_known(part.digest) for part in parts)
            if residency.is_known(name) and residency.is_pinned(name):
                assert all(residency.is_pinned(part.digest) for part in parts)

    def run_until(self, is_done: Callable[[], bool]) -> None:
        for _ in range(1500):
            if is_done():
                return
            while self.loader.loads:
                self.loader.end(0, succeeds=True)
            self.engine.step()
            self.take_answers()
        raise AssertionError(f"{self.live} did not end")

    def teardown(self) -> None:
        """All loads succeed from now on: requests end, and what is released leaves nothing."""
        if not hasattr(self, "engine"):
            return
        self.run_until(lambda: not self.live)
        self.run_until(lambda: not self.loading and not self.loader.loads)
        for name in list(self.references):
            self.engine.handle(ReleaseAdapter(name, f"/{name}"))
        self.run_until(lambda: not self.engine.step() and not self.loader.loads)
        self.take_answers()
        assert not self.pinning
        memory = self.memory
        assert memory.residency.num_known == 0
        assert memory.residency.num_pinned_pages == memory.host.num_pages == 0
        assert memory.pool.num_free + memory.prefixes.num_pages_of(None) == memory.pool.num_pages
        assert self.store.draining() == []
        self.engine.close()


TestSetLifeMachine = SetLifeMachine.TestCase
TestSetLifeMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
