"""One engine process, from its start to its death, and the socket to it.

Owns: the child process, its life line (standard input) and one ZeroMQ socket.
Does not know: what the messages mean, nor that an engine is restarted (`engine_client.py`).

Each process gets an address of its own, so that nothing that was meant for a dead engine can
ever reach its successor.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from motet.core.config import EngineConfig
from motet.core.errors import MotetError
from motet.core.messages import (
    EngineFailed,
    EngineReady,
    FromEngine,
    Shutdown,
    ToEngine,
    decode_from_engine,
    encode,
)

_STDERR = 2  # the engine's own output goes to the log, whatever it writes to
_SHUTDOWN_TIMEOUT_S = 5.0


class EngineLink:
    """A started engine. Use `start`, not the constructor."""

    def __init__(self, process: Process, socket: zmq.asyncio.Socket) -> None:
        self._process = process
        self._socket = socket
        self.info: EngineReady

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        config: EngineConfig,
        context: zmq.asyncio.Context,
        address_file: Path,
    ) -> EngineLink:
        """Start the process and wait until it can take requests.

        Args:
            command: the program; `--socket ADDRESS` is appended.
            address_file: a path in a directory that nobody else can enter.

        Raises:
            MotetError: the engine said why it cannot start, or ended without a word.
        """
        socket = context.socket(zmq.PAIR)
        socket.set_hwm(0)  # no message is ever dropped, nor does sending ever wait for the engine
        socket.linger = 0
        address = f"ipc://{address_file}"
        socket.bind(address)
        try:
            # A session of its own: a Ctrl-C at the terminal must not kill what is draining.
            process = await asyncio.create_subprocess_exec(
                *command, "--socket", address, stdin=PIPE, stdout=_STDERR, start_new_session=True
            )
        except OSError as error:
            socket.close()
            raise MotetError(
                f"The engine process cannot be started: {error}.", code="engine_dead"
            ) from error
        link = cls(process, socket)
        try:
            await link._hand_over(config)
            link.info = await link._await_ready()
        except BaseException:
            await link.kill()
            raise
        return link

    def send(self, message: ToEngine) -> None:
        """Send without waiting. To a dead engine it is lost, as is all that it was doing."""
        future = asyncio.ensure_future(self._socket.send(encode(message)))
        # A socket that is closed meanwhile cancels what is unsent; nobody waits for it.
        future.add_done_callback(_ignore_outcome)

    async def receive(self) -> FromEngine:
        """The engine's next message."""
        message: FromEngine = decode_from_engine(await self._socket.recv())
        return message

    async def wait(self) -> int:
        """The exit status, once the process has ended; negative is the signal that ended it."""
        return await self._process.wait()

    async def close(self) -> None:
        """Ask the engine to end, and make it end if it does not."""
        self.send(Shutdown())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), _SHUTDOWN_TIMEOUT_S)
        await self.kill()

    async def kill(self) -> None:
        """End the process now, if it has not ended, and free the socket."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.wait()
        self._socket.close()

    async def _hand_over(self, config: EngineConfig) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # opened as a pipe above
        stdin.write(msgspec.json.encode(config) + b"\n")
        with contextlib.suppress(ConnectionError):  # then it is dead, which is noticed next
            await stdin.drain()

    async def _await_ready(self) -> EngineReady:
        first = asyncio.ensure_future(self.receive())
        death = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait({first, death}, return_when=asyncio.FIRST_COMPLETED)
            # A reason that was sent just before the end may still be on its way.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(first), 1.0)
            message = first.result() if first.done() else None
        finally:
            first.cancel()
            death.cancel()
        match message:
            case EngineReady():
                return message
            case EngineFailed():
                raise MotetError(message.message, code=message.code)
            case None:
                raise MotetError(
                    f"The engine process ended ({describe_exit(await self.wait())}) before it was "
                    "ready. Its output in the log says why.",
                    code="engine_dead",
                )
            case _:
                raise MotetError(
                    f"The engine began with {type(message).__name__} instead of EngineReady; "
                    "the two processes are of different versions.",
                    code="engine_dead",
                )


def describe_exit(status: int) -> str:
    """An exit status in words."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _ignore_outcome(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
