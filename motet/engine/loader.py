"""Brings adapters from disk to host and from host to device, beside the running step.

Owns: the loader threads, and the stream of copies to a GPU.
Does not know: which adapter should be where; it does what it is told and reports.
"""

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from motet.adapters.peft_lora import load_adapter
from motet.core.errors import AdapterError
from motet.core.messages import AdapterInfo
from motet.memory.device_pool import DevicePool, PackedAdapter, pack_adapter
from motet.memory.residency import Placement


@dataclass(frozen=True)
class ReadDone:
    """An adapter is checked, packed and in host memory."""

    operation_id: str
    packed: PackedAdapter
    info: AdapterInfo


@dataclass(frozen=True)
class ReadFailed:
    """An adapter was refused."""

    operation_id: str
    error: AdapterError


@dataclass(frozen=True)
class CopyDone:
    """An adapter is in its pages, and its table rows are written."""

    digest: str


@dataclass(frozen=True)
class CopyFailed:
    """A copy to the device failed; its pages hold nothing of use."""

    digest: str
    message: str


LoaderEvent = ReadDone | ReadFailed | CopyDone | CopyFailed


class AdapterLoader:
    """Runs reads and copies in threads; what they came to is fetched by `poll`.

    Args:
        pool: where adapters are copied to, and whose layout they are packed in.
        num_threads: threads.
        wake: called from a loader thread whenever an event can be polled.
    """

    def __init__(self, pool: DevicePool, num_threads: int, wake: Callable[[], None]) -> None:
        self._pool = pool
        self._wake = wake
        self._events: queue.SimpleQueue[LoaderEvent] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="adapter-loader")
        is_cuda = pool.data.device.type == "cuda"
        self._stream = torch.Stream(pool.data.device) if is_cuda else None

    def read(self, operation_id: str, path: str) -> None:
        """Start reading an adapter directory; ends with `ReadDone` or `ReadFailed`."""
        self._threads.submit(self._run, lambda: self._read(operation_id, path))

    def copy(self, placement: Placement, packed: PackedAdapter) -> None:
        """Start copying an adapter to its pages; ends with `CopyDone` or `CopyFailed`."""
        self._threads.submit(self._run, lambda: self._copy(placement, packed))

    def poll(self) -> list[LoaderEvent]:
        """The events since the last call, without waiting."""
        events = []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def close(self) -> None:
        """Let running loads end and take no more."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, task: Callable[[], LoaderEvent]) -> None:
        self._events.put(task())
        self._wake()

    def _read(self, operation_id: str, path: str) -> LoaderEvent:
        geometry = self._pool.geometry
        try:
            adapter = load_adapter(Path(path), geometry.shape)
            packed = pack_adapter(
                geometry,
                self._pool.data.dtype,
                {key: (delta.a, delta.b) for key, delta in adapter.deltas.items()},
                pinned=self._stream is not None,
            )
        except AdapterError as error:
            return ReadFailed(operation_id, error)
        except Exception as error:  # a thread has no caller: whatever happens must be answered
            reason = f"the adapter could not be read: {type(error).__name__}: {error}"
            return ReadFailed(operation_id, AdapterError(reason))
        num_pages, num_pool_pages = packed.layout.num_pages, self._pool.data.shape[1]
        if num_pages >= num_pool_pages:
            reason = (
                f"the adapter needs {num_pages} pages and a request at least one more, but the "
                f"whole pool has {num_pool_pages}; start the server with a larger --pool-memory"
            )
            return ReadFailed(operation_id, AdapterError(reason, code="adapter_too_large"))
        info = AdapterInfo(
            digest=adapter.digest,
            max_rank=adapter.max_rank,
            modules=[module.name.lower() for module in adapter.modules],
            num_parameters=adapter.num_parameters,
            num_pages=num_pages,
        )
        return ReadDone(operation_id, packed, info)

    def _copy(self, placement: Placement, packed: PackedAdapter) -> LoaderEvent:
        try:
            if self._stream is None:
                self._pool.copy_in(packed, placement)
            else:
                with self._stream:
                    self._pool.copy_in(packed, placement)
                self._stream.synchronize()
        except Exception as error:  # as above
            return CopyFailed(placement.digest, f"{type(error).__name__}: {error}")
        return CopyDone(placement.digest)
