"""The life of adapters in the engine: read, referred to, pinned, brought in, drained.

Owns: what is done about an adapter's messages and the loader's events.
Does not know: when an adapter should come in (`scheduler/lookahead.py`), nor names and HTTP.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from motet.core.messages import (
    AdapterLoaded,
    AdapterRefused,
    AddRequest,
    FromEngine,
    LoadAdapter,
    PinAdapter,
    ReleaseAdapter,
    RequestFailed,
    UnpinAdapter,
)
from motet.engine.loader import (
    AdapterLoader,
    CopyDone,
    CopyFailed,
    FetchDone,
    FetchFailed,
    ReadDone,
    ReadFailed,
    Took,
)
from motet.engine.pins import AdapterPins
from motet.engine.read_adapter import Source
from motet.engine.store import AdapterStore
from motet.memory.eviction import Kind, PageCosts
from motet.memory.unified import UnifiedMemory
from motet.scheduler.scheduler import Plan, Scheduler

_log = logging.getLogger(__name__)


@dataclass
class LoaderCounts:
    """What the loader did since the start; durations in seconds, summed."""

    num_reads: int = 0
    num_read_failures: int = 0
    read_s: float = 0.0
    load_s: float = 0.0


class EngineAdapters:
    """Adapters over all tiers.

    Args:
        store, loader, scheduler, memory: the engine's parts.
        costs: learns what it takes to bring an adapter in.
        send: takes the messages to the API process.
    """

    def __init__(
        self,
        *,
        store: AdapterStore,
        loader: AdapterLoader,
        scheduler: Scheduler,
        memory: UnifiedMemory,
        costs: PageCosts,
        send: Callable[[FromEngine], None],
    ) -> None:
        self._store = store
        self._loader = loader
        self._scheduler = scheduler
        self._residency = memory.residency
        self._prefixes = memory.prefixes
        self._host = memory.host
        self._costs = costs
        self._send = send
        self._read_work_s: dict[str, float] = {}  # of adapters that were not copied since
        self._pins = AdapterPins(memory.residency, send)
        self.counts = LoaderCounts()

    def unusable(self, request: AddRequest) -> str | None:
        """Why a request may not have what it names; None if it may."""
        parts = [part.digest for part in request.parts]
        named = parts if parts or request.digest is None else [request.digest]
        if not all(map(self._store.is_referenced, named)):
            return "the adapter is not loaded"
        if any(self._store.info(part).routed is not None for part in parts):
            return "a routed set cannot be a part of a composition"
        return None

    def num_elems(self, digest: str) -> int:
        """Elements of an adapter's rank rows; of a set, of its gates."""
        return self._store.num_elems(digest)

    def handle(self, message: LoadAdapter | ReleaseAdapter | PinAdapter | UnpinAdapter) -> None:
        """Take one message."""
        match message:
            case LoadAdapter(operation_id=operation_id, path=path, expert_paths=expert_paths):
                self._loader.read(operation_id, Source(path, tuple(expert_paths)))
            case ReleaseAdapter(digest=digest, path=path):
                self._store.release(digest, path)
                self.drop_drained()
            case PinAdapter():
                self._pin(message)
            case UnpinAdapter(digest=digest):
                self._pins.unpin(digest)

    def start(self, plan: Plan) -> None:
        """Start what the scheduler has planned."""
        for digest in plan.reads:
            self._loader.fetch(digest, self._store.sources(digest))
        for placement in plan.copies:
            self._loader.copy(placement, self._host.copy(placement.digest))

    def take_loader_events(self) -> None:
        """Take note of what the loader has done."""
        for event in self._loader.poll():
            match event:
                case ReadDone():
                    self._take_read(event)
                case ReadFailed(operation_id=operation_id, error=error):
                    self.counts.num_read_failures += 1
                    self._send(AdapterRefused(operation_id, error.code, error.message))
                case FetchDone(digest=digest, packed=packed, took=took):
                    self._count_read(digest, took)
                    self._host.finish_read(digest, packed)
                case FetchFailed(digest=digest, message=message):
                    self.counts.num_read_failures += 1
                    self._host.fail_read(digest)
                    self._give_up(digest, f"its files cannot be used: {message}")
                case CopyDone(digest=digest, num_pages=num_pages, took=took):
                    self.counts.load_s += took.seconds
                    work_s = took.work_s + self._read_work_s.pop(digest, 0.0)
                    self._costs.observe(Kind.ADAPTER, work_s, num_pages)
                    self._host.let_go(digest)
                    self._residency.finish_load(digest)
                    self._pins.answer()
                case CopyFailed(digest=digest, message=message):
                    self._host.let_go(digest)
                    self._residency.fail_load(digest)
                    self._give_up(digest, f"it could not be copied to the device: {message}")
            self.drop_drained()

    def drop_drained(self) -> None:
        """Let go of adapters that no name refers to and no request uses."""
        for digest in self._store.draining():
            is_moving = self._residency.is_loading(digest) or self._host.is_reading(digest)
            if is_moving or self._scheduler.uses_adapter(digest):
                continue
            self._pins.give_up(digest, "adapter_not_loaded", "the adapter was let go")
            self._prefixes.forget(digest)
            self._residency.forget(digest)
            self._host.drop(digest)
            self._read_work_s.pop(digest, None)
            self._store.drop(digest)

    def share_cores(self, *, is_stepping: bool) -> None:
        """Have loads give way to the step, or go at full speed while there is none."""
        self._loader.pace.is_stepping = is_stepping

    def close(self) -> None:
        """End the loader threads."""
        self._loader.close()

    def _take_read(self, event: ReadDone) -> None:
        info = event.parts[0].info
        self._store.refer(event.parts)
        # Its request comes next, and those that wait already come before it.
        needed = {*self._scheduler.waiting_adapters(), *(part.digest for part in event.parts)}
        for part in event.parts:
            digest, layout = part.digest, part.packed.layout
            self._residency.register(
                digest,
                num_pages=layout.num_pages,
                num_rows=layout.num_rows,
                members=part.members,
            )
            self._count_read(digest, event.took.share(layout.num_pages / info.num_pages))
            self._host.offer(digest, layout.num_pages, part.packed, needed)
        self._send(AdapterLoaded(event.operation_id, info))

    def _count_read(self, digest: str, took: Took) -> None:
        self.counts.num_reads += 1
        self.counts.read_s += took.seconds
        self._read_work_s[digest] = took.work_s

    def _pin(self, message: PinAdapter) -> None:
        if not self._store.is_referenced(message.digest):
            self._refuse(message.operation_id, "adapter_not_loaded", "the adapter is not loaded")
        elif not self._scheduler.may_pin(message.digest):
            self._refuse(
                message.operation_id,
                "pins_exceed_pool",
                "with this adapter, pinned adapters would take more than half of the pool, or "
                "leave too little for a request that is queued; unpin another, or start the "
                "server with a larger --pool-memory",
            )
        else:
            self._pins.pin(message)

    def _refuse(self, operation_id: str, code: str, message: str) -> None:
        self._send(AdapterRefused(operation_id, code, message))

    def _give_up(self, digest: str, reason: str) -> None:
        """Fail the requests that wait for an adapter; the next one tries again."""
        message = f"The adapter cannot be brought in: {reason}"
        for request_id in self._scheduler.abort_adapter(digest):
            self._send(RequestFailed(request_id, "adapter_unavailable", message))
        # A pin that stayed would have it tried in every step.
        if self._pins.give_up(digest, "adapter_unavailable", message):
            _log.error("a pinned adapter was unpinned: %r", message)
