"""The API process's side of the engine: requests out, tokens in, and a watch over its life.

Owns: when the engine may be asked, and the restart of one that died or hangs.
Does not know: HTTP, text, nor the names of adapters (`registry.py` loads those again).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
import zmq.asyncio

from motet.core.config import EngineConfig
from motet.core.errors import MotetError
from motet.core.messages import (
    AbortRequest,
    AdapterInfo,
    AdapterLoaded,
    AdapterPinned,
    AddRequest,
    EngineReady,
    EngineStats,
    GetMemory,
    GetStats,
    LoadAdapter,
    MemoryReport,
    PinAdapter,
    Ping,
    Pong,
    ReleaseAdapter,
    ToEngine,
    UnpinAdapter,
)
from motet.server.engine_link import EngineLink, describe_exit
from motet.server.first_token_queue import FirstTokenQueue
from motet.server.in_flight import InFlight
from motet.server.token_stream import TokenStream

ENGINE_COMMAND = (sys.executable, "-m", "motet.engine.process")

_MAX_RESTART_DELAY_S = 30.0
_HEARTBEAT_INTERVAL_S = 5.0
_HEALTHY_AFTER_S = 60.0  # an engine that lived this long starts the delays anew

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AdapterReference:
    """One reference on an adapter, in one engine process. It ends with that process.

    Attributes:
        path: where the engine read the adapter.
        engine: the process that holds it, as `EngineClient.num_starts` counts them.
    """

    info: AdapterInfo
    path: Path
    engine: int


class EngineClient:
    """A supervised engine process.

    Args:
        config: the engine's options, given to each process that is started.
        command: the engine's program; tests give another.
        max_queued: sequences that may wait for their first token: see `FirstTokenQueue`.
        timeout_s: an engine that answers nothing for so long hangs, and is killed. It answers
            between its steps, so this is longer than any step takes.
        restart_delay_s: wait before the first restart; it doubles with each failure in a row.

    Attributes:
        queue: the sequences that wait for their first token.
    """

    def __init__(
        self,
        config: EngineConfig,
        command: Sequence[str] = ENGINE_COMMAND,
        max_queued: int = 1024,
        timeout_s: float = 120.0,
        restart_delay_s: float = 0.5,
    ) -> None:
        self._config = config
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._restart_delay_s = restart_delay_s
        self._context = zmq.asyncio.Context()
        self._directory = tempfile.TemporaryDirectory(prefix="motet-")  # mode 0700
        self._link: EngineLink | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.queue = FirstTokenQueue(max_queued)
        self._in_flight = InFlight(self._send, self.queue)
        self._info: EngineReady | None = None
        self.num_starts = 0
        self.unready_reason: str | None = "The engine is starting."
        self.on_restart: Callable[[], Awaitable[None]] | None = None

    @property
    def info(self) -> EngineReady:
        """What the running engine said of itself, or the last one if none is running."""
        assert self._info is not None, "the engine has not been started"
        return self._info

    @property
    def pid(self) -> int | None:
        """The running engine's process; None while there is none."""
        return None if self._link is None else self._link.pid

    @property
    def num_in_flight(self) -> int:
        """Sequences that the engine has been asked for and has not finished."""
        return len(self._in_flight.streams)

    async def start(self) -> None:
        """Start the engine and wait until it is ready. Raises MotetError with its reason."""
        self._link = await self._start_link()
        self.unready_reason = None
        self._supervisor = asyncio.create_task(self._supervise(), name="engine supervisor")

    async def close(self) -> None:
        """End the engine. Whatever is still in flight fails."""
        self.unready_reason = "The server is shutting down."
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        if self._link is not None:
            await self._link.close()
            self._link = None
        self._in_flight.fail_all(MotetError(self.unready_reason, code="shutting_down"))
        self._context.destroy(linger=0)
        self._directory.cleanup()

    def give_up(self, error: MotetError) -> None:
        """Fail all that is in flight, and take nothing more: the server is about to close."""
        self.unready_reason = error.message
        self._in_flight.fail_all(error)

    def require_ready(self) -> None:
        """Raises MotetError (`engine_restarting`) while the engine cannot take requests."""
        if self.unready_reason is not None:
            raise MotetError(f"{self.unready_reason} Try again.", code="engine_restarting")

    def submit(self, requests: Sequence[AddRequest]) -> TokenStream:
        """Send the requests of one tenant and return the stream of their tokens.

        Does not wait, so that what the caller checked just before (an adapter's digest) still
        holds. The caller closes the stream; that aborts what has not finished.

        Raises:
            MotetError: the engine is not ready, or too many sequences wait already.
        """
        self.require_ready()
        ids = [request.request_id for request in requests]
        self.queue.add(ids, requests[0].tenant)
        stream = TokenStream(ids, self._forget)
        for request in requests:
            self._in_flight.streams[request.request_id] = stream
            self._send(request)
        return stream

    async def load_adapter(self, path: Path, expert_paths: Sequence[Path] = ()) -> AdapterReference:
        """Have the engine check and keep an adapter: one more reference on its digest.

        Args:
            expert_paths: of a routed set, as in `LoadAdapter`.

        Raises:
            AdapterError: the engine refused it.
            MotetError: the engine died meanwhile.
        """
        engine = self.num_starts
        message = LoadAdapter(_new_id(), str(path), [str(each) for each in expert_paths])
        loaded = await self._in_flight.ask(message, AdapterLoaded)
        return AdapterReference(loaded.info, path, engine)

    def holds(self, reference: AdapterReference | None) -> bool:
        """Whether the running engine holds a reference. One that died holds nothing."""
        return reference is not None and reference.engine == self.num_starts

    def release_adapter(self, reference: AdapterReference) -> None:
        """Give a reference back. Safe at once: the engine waits for the requests that use it.

        Nothing happens if the engine that held it is dead.
        """
        self._send_to_holder(reference, ReleaseAdapter(reference.info.digest, str(reference.path)))

    async def pin_adapter(self, reference: AdapterReference) -> None:
        """Have a held adapter brought to the device and kept there; waits until it is there.

        Raises:
            AdapterError: pinned adapters would leave too little of the pool.
            MotetError: the engine died meanwhile.
        """
        await self._in_flight.ask(PinAdapter(_new_id(), reference.info.digest), AdapterPinned)

    def unpin_adapter(self, reference: AdapterReference) -> None:
        """Take one pin back. Nothing happens if the engine that held it is dead."""
        self._send_to_holder(reference, UnpinAdapter(reference.info.digest))

    async def stats(self) -> EngineStats:
        """A snapshot of the engine. Raises MotetError if it dies meanwhile."""
        return await self._in_flight.ask(GetStats(_new_id()), EngineStats)

    async def memory(self) -> MemoryReport:
        """Where everything is in the engine's memory. Raises MotetError if it dies meanwhile."""
        return await self._in_flight.ask(GetMemory(_new_id()), MemoryReport)

    def _send_to_holder(self, reference: AdapterReference, message: ToEngine) -> None:
        if self._link is not None and self.holds(reference):
            self._link.send(message)

    def _send(self, message: ToEngine) -> None:
        if self._link is None:
            raise MotetError("The engine is not running.", code="engine_restarting")
        self._link.send(message)

    def _forget(self, request_id: str, *, is_finished: bool) -> None:
        del self._in_flight.streams[request_id]
        self.queue.discard(request_id)
        if not is_finished and self._link is not None:
            self._link.send(AbortRequest(request_id))

    async def _start_link(self) -> EngineLink:
        self.num_starts += 1
        # A new one each time: whoever tidies up temporary files may have removed the old one.
        self._directory.cleanup()
        self._directory = tempfile.TemporaryDirectory(prefix="motet-")  # mode 0700
        address_file = Path(self._directory.name) / f"engine-{self.num_starts}"
        link = await EngineLink.start(self._command, self._config, self._context, address_file)
        self._info = link.info
        return link

    async def _supervise(self) -> None:
        delay_s = self._restart_delay_s
        while True:
            assert self._link is not None
            started_s = time.monotonic()
            reason = await self._serve_until_death(self._link)
            await self._link.kill()  # it may live on, if its messages cannot be read
            if time.monotonic() - started_s > _HEALTHY_AFTER_S:
                delay_s = self._restart_delay_s
            self._link = None
            self._mark_dead(f"The engine process ended unexpectedly ({reason}).")
            while self._link is None:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _MAX_RESTART_DELAY_S)
                try:
                    self._link = await self._start_link()
                except MotetError as error:
                    self._mark_dead(f"The engine cannot be restarted: {error.message}")
                except (OSError, zmq.ZMQError) as error:  # no room for its socket, say
                    self._mark_dead(f"The engine cannot be restarted: {error}.")

    async def _serve_until_death(self, link: EngineLink) -> str:
        """Handle the engine's messages; how it died, once it has."""
        reader = asyncio.create_task(self._read(link), name="engine reader")
        reload = asyncio.create_task(self._become_ready(), name="adapter reload")
        death = asyncio.create_task(link.wait(), name="engine death")
        heartbeat = asyncio.create_task(self._watch_heartbeat(), name="engine heartbeat")
        watched = {reader, reload, death, heartbeat}
        try:
            while True:
                done, watched = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                if death in done:
                    return describe_exit(death.result())
                # Reader and heartbeat never end well; the reload may, and then the others go on.
                for task in done:
                    if error := task.exception():
                        return f"{task.get_name()}: {error}"
        finally:
            tasks = (reader, reload, death, heartbeat)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch_heartbeat(self) -> None:
        """Ask the engine now and then whether it is alive. Raises MotetError once it hangs."""
        while True:
            await asyncio.sleep(min(_HEARTBEAT_INTERVAL_S, self._timeout_s / 4))
            answer = asyncio.create_task(self._in_flight.ask(Ping(_new_id()), Pong))
            try:
                # In two halves: if it was this process that stood still, the first is over at
                # once when it goes on, before the answer that has long been there is read.
                for _ in range(2):
                    await asyncio.wait({answer}, timeout=self._timeout_s / 2)
                if not answer.done():
                    raise MotetError(f"no answer for {self._timeout_s:g} s", code="engine_dead")
            finally:
                answer.cancel()
                await asyncio.gather(answer, return_exceptions=True)

    async def _become_ready(self) -> None:
        """After a restart, have what must be there at once loaded before any request comes."""
        if self.unready_reason is None:
            return
        if self.on_restart is not None:
            await self.on_restart()
        self.unready_reason = None
        _log.info("engine restarted", num_starts=self.num_starts)

    def _mark_dead(self, reason: str) -> None:
        self.unready_reason = f"{reason} It is being restarted."
        _log.error("engine dead", reason=reason, num_in_flight=len(self._in_flight.streams))
        self._in_flight.fail_all(MotetError(self.unready_reason, code="engine_dead"))

    async def _read(self, link: EngineLink) -> None:
        while True:
            self._in_flight.handle(await link.receive())
            # A message that is there already is received without waiting. Were many of them taken
            # in one go, streams would be full before their readers had a turn.
            await asyncio.sleep(0)


def _new_id() -> str:
    return uuid.uuid4().hex
