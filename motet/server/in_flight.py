"""Who in the API process waits for which answer of the engine's.

Owns: the streams of running requests, and the futures of operations.
Does not know: the socket, nor whether the engine lives.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog

from motet.core.errors import AdapterError, MotetError
from motet.core.messages import (
    AdapterInfo,
    AdapterLoaded,
    AdapterRefused,
    EngineStats,
    FromEngine,
    RequestFailed,
    StepOutput,
)
from motet.server.token_stream import TokenStream

ResultT = TypeVar("ResultT")

_log = structlog.get_logger()


class InFlight:
    """Everything that has been asked of the engine and not been answered.

    Args:
        release: gives back a reference on a digest that nobody waits for any more.
    """

    def __init__(self, release: Callable[[str], None]) -> None:
        self._release = release
        self._loads: dict[str, asyncio.Future[AdapterInfo]] = {}
        self._stats: dict[str, asyncio.Future[EngineStats]] = {}
        self.streams: dict[str, TokenStream] = {}

    @contextmanager
    def load(self) -> Iterator[tuple[str, asyncio.Future[AdapterInfo]]]:
        """A new operation id, and what will be known when its adapter is loaded or refused."""
        with _waiting(self._loads) as operation:
            yield operation

    @contextmanager
    def stats(self) -> Iterator[tuple[str, asyncio.Future[EngineStats]]]:
        """A new operation id, and the snapshot to come."""
        with _waiting(self._stats) as operation:
            yield operation

    def handle(self, message: FromEngine) -> None:
        """Give a message to whoever waits for it. Ids that nobody knows were given up on."""
        match message:
            case StepOutput():
                for output in message.outputs:
                    if stream := self.streams.get(output.request_id):
                        stream.push(output)
            case RequestFailed():
                if stream := self.streams.get(message.request_id):
                    error = MotetError(message.message, code=message.code)
                    stream.fail(message.request_id, error)
            case AdapterLoaded():
                load = self._loads.get(message.operation_id)
                if load is None or load.done():  # its reference must not stay for ever
                    self._release(message.info.digest)
                else:
                    load.set_result(message.info)
            case AdapterRefused():
                refusal = AdapterError(message.message, code=message.code)
                _fail(self._loads.get(message.operation_id), refusal)
            case EngineStats():
                stats = self._stats.get(message.operation_id)
                if stats is not None and not stats.done():
                    stats.set_result(message)
            case _:
                _log.warning("unexpected message from the engine", kind=type(message).__name__)

    def fail_all(self, error: MotetError) -> None:
        """End everything with an error: the engine is dead."""
        for request_id, stream in list(self.streams.items()):
            stream.fail(request_id, error)
        for load in self._loads.values():
            _fail(load, error)
        for stats in self._stats.values():
            _fail(stats, error)


@contextmanager
def _waiting(
    futures: dict[str, asyncio.Future[ResultT]],
) -> Iterator[tuple[str, asyncio.Future[ResultT]]]:
    operation_id = uuid.uuid4().hex
    future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
    futures[operation_id] = future
    try:
        yield operation_id, future
    finally:
        del futures[operation_id]


def _fail(future: asyncio.Future[ResultT] | None, error: MotetError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
