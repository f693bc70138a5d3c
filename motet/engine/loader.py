"""Brings adapters from disk to host and from host to device, beside the running step.

Owns: the loader threads, and the stream of copies to a GPU.
Does not know: which adapter should be where; it does what it is told and reports.
"""

import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from motet.core.errors import AdapterError
from motet.engine.pace import LoadPace, OneLoad
from motet.engine.read_adapter import PackingFormat, Part, Source, read_part, read_parts
from motet.memory.device_pool import DevicePool, PackedAdapter
from motet.memory.residency import Placement


@dataclass(frozen=True)
class Took:
    """How long a load took.

    Attributes:
        seconds: from its beginning to its end.
        work_s: of these, what was not left to the step.
    """

    seconds: float
    work_s: float

    def share(self, fraction: float) -> "Took":
        """What of it went to a part of what was loaded."""
        return Took(self.seconds * fraction, self.work_s * fraction)


@dataclass(frozen=True)
class ReadDone:
    """An adapter, or a routed set with its members, is checked, packed and in host memory.

    Attributes:
        parts: as `read_parts` returns them.
        took: for all of these.
    """

    operation_id: str
    parts: Sequence[Part]
    took: Took


@dataclass(frozen=True)
class ReadFailed:
    """An adapter was refused."""

    operation_id: str
    error: AdapterError


@dataclass(frozen=True)
class FetchDone:
    """A known adapter is in host memory again."""

    digest: str
    packed: PackedAdapter
    took: Took


@dataclass(frozen=True)
class FetchFailed:
    """A known adapter cannot be had from its files any more."""

    digest: str
    message: str


@dataclass(frozen=True)
class CopyDone:
    """An adapter is in its pages, and its table rows are written."""

    digest: str
    num_pages: int
    took: Took


@dataclass(frozen=True)
class CopyFailed:
    """A copy to the device failed; its pages hold nothing of use."""

    digest: str
    message: str


LoaderEvent = ReadDone | ReadFailed | FetchDone | FetchFailed | CopyDone | CopyFailed


class AdapterLoader:
    """Runs reads and copies in threads; what they came to is fetched by `poll`.

    Copies have a thread of their own: they are short, and whoever waits for one comes next.

    Args:
        pool: where adapters are copied to, and whose layout they are packed in.
        num_threads: threads that read.
        host_budget_pages: an adapter that takes more could never be kept, and is refused.
        wake: called from a loader thread whenever an event can be polled.

    Attributes:
        pace: how loads share the cores with the step.
    """

    def __init__(
        self,
        pool: DevicePool,
        num_threads: int,
        host_budget_pages: int,
        wake: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._wake = wake
        self._host_budget_pages = host_budget_pages
        self._events: queue.SimpleQueue[LoaderEvent] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(num_threads, "adapter-reader")
        self._copier = ThreadPoolExecutor(1, "adapter-copier")
        is_cuda = pool.data.device.type == "cuda"
        self.pace = LoadPace(gives_way=not is_cuda)
        self._stream = torch.Stream(pool.data.device) if is_cuda else None
        self._packing = PackingFormat(pool.geometry, pool.data.dtype, pinned=is_cuda)

    def read(self, operation_id: str, source: Source) -> None:
        """Start reading an adapter or routed set; ends with `ReadDone` or `ReadFailed`."""
        self._start(self._readers, lambda pace: self._read(operation_id, source, pace))

    def fetch(self, digest: str, sources: Sequence[Source]) -> None:
        """Start reading a known adapter, or a set's gates, again; `FetchDone` or `FetchFailed`.

        Args:
            digest: what it has to be.
            sources: directories to try, in order.
        """
        self._start(self._readers, lambda pace: self._fetch(digest, sources, pace))

    def copy(self, placement: Placement, packed: PackedAdapter) -> None:
        """Start copying an adapter to its pages; ends with `CopyDone` or `CopyFailed`.

        A GPU begins once it has run the steps that were launched before this call: until then
        they may read or write what was in these pages.
        """
        launched: torch.Event | None = None
        if self._stream is not None:
            launched = torch.Event(self._pool.data.device)
            launched.record()
        self._start(self._copier, lambda pace: self._copy(placement, packed, launched, pace))

    def poll(self) -> list[LoaderEvent]:
        """The events since the last call, without waiting."""
        events = []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def close(self) -> None:
        """Let running loads end and take no more."""
        for threads in (self._readers, self._copier):
            threads.shutdown(wait=True, cancel_futures=True)

    def _start(self, threads: ThreadPoolExecutor, task: Callable[[OneLoad], LoaderEvent]) -> None:
        self.pace.add()
        threads.submit(self._run, task)

    def _run(self, task: Callable[[OneLoad], LoaderEvent]) -> None:
        event = task(self.pace.begin())
        self.pace.remove()
        self._events.put(event)
        self._wake()

    def _read(self, operation_id: str, source: Source, pace: OneLoad) -> LoaderEvent:
        started_s = time.monotonic()
        try:
            parts = read_parts(source, self._packing, pace)
            self._require_room(parts)
        except AdapterError as error:
            return ReadFailed(operation_id, error)
        except Exception as error:  # a thread has no caller: whatever happens must be answered
            reason = f"the adapter could not be read: {type(error).__name__}: {error}"
            return ReadFailed(operation_id, AdapterError(reason))
        return ReadDone(operation_id, parts, _took(started_s, pace))

    def _fetch(self, digest: str, sources: Sequence[Source], pace: OneLoad) -> LoaderEvent:
        started_s = time.monotonic()
        reasons = []
        for source in sources:
            try:
                part = read_part(source, self._packing, pace)
            except AdapterError as error:
                reasons.append(f"{source.path}: {error.message}")
            except Exception as error:  # as above
                reasons.append(f"{source.path}: {type(error).__name__}: {error}")
            else:
                if part.digest == digest:
                    return FetchDone(digest, part.packed, _took(started_s, pace))
                reasons.append(f"{source.path}: its files have changed since it was loaded")
        return FetchFailed(digest, "; ".join(reasons))

    def _require_room(self, parts: Sequence[Part]) -> None:
        """Raises AdapterError for an adapter or routed set that could never be brought in.

        All parts are on the device together. Host memory has them one after another.
        """
        num_pages = parts[0].info.num_pages
        num_pool_pages = self._pool.data.shape[1]
        if num_pages >= num_pool_pages:
            raise AdapterError(
                f"the adapter needs {num_pages} pages and a request at least one more, but the "
                f"whole pool has {num_pool_pages}; start the server with a larger --pool-memory",
                code="adapter_too_large",
            )
        most_pages = max(part.packed.layout.num_pages for part in parts)
        if most_pages > self._host_budget_pages:
            raise AdapterError(
                f"the adapter takes {most_pages} pages, but host memory is given to at most "
                f"{self._host_budget_pages}; start the server with a larger --host-adapter-memory",
                code="adapter_too_large",
            )

    def _copy(
        self,
        placement: Placement,
        packed: PackedAdapter,
        launched: torch.Event | None,
        pace: OneLoad,
    ) -> LoaderEvent:
        started_s = time.monotonic()
        try:
            if self._stream is None or launched is None:
                self._pool.copy_in(packed, placement, pace=pace)
            else:
                self._stream.wait_event(launched)
                try:
                    with self._stream:
                        self._pool.copy_in(packed, placement)
                finally:  # what has begun must end before the pages are another's
                    self._stream.synchronize()
        except Exception as error:  # as above
            return CopyFailed(placement.digest, f"{type(error).__name__}: {error}")
        return CopyDone(placement.digest, len(placement.pages), _took(started_s, pace))


def _took(started_s: float, pace: OneLoad) -> Took:
    seconds = time.monotonic() - started_s
    return Took(seconds, seconds - pace.rested_s)
