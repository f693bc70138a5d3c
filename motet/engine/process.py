"""The engine process: `python -m motet.engine.process --socket ADDRESS`.

Owns: start and end of the process, the socket to the API process, and the step loop.
Does not know: HTTP, nor how an engine is made (`build.py`).

The first line of standard input is the `EngineConfig` as JSON. Standard input then stays open as
a life line: when it closes, the API process is gone, and the engine ends.
"""

import argparse
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import zmq

from motet.core.config import EngineConfig
from motet.core.errors import MotetError
from motet.core.messages import (
    EngineFailed,
    EngineReady,
    FromEngine,
    Shutdown,
    decode_to_engine,
    encode,
)
from motet.engine.waker import Waker
from motet.kernels.threads import share_cores

if TYPE_CHECKING:
    from motet.engine.engine import Engine

# The longest sleep [s]. The poller takes milliseconds as a C int, which is 25 days of them; to wake
# for nothing once in a while costs nothing.
_MAX_SLEEP_S = 3600.0

Build = Callable[
    [EngineConfig, Callable[[], None], Callable[[FromEngine], None]],
    tuple["Engine", EngineReady],
]
"""As `build.build_engine`."""


class EngineLoop:
    """Steps while there is work; else sleeps until a message, a finished load, or the end.

    It wakes also when a request that waits has to be refused.
    """

    def __init__(self, socket: zmq.SyncSocket, waker: Waker, engine: "Engine") -> None:
        self._socket = socket
        self._waker = waker
        self._engine = engine
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(waker.fd, zmq.POLLIN)
        self._poller.register(sys.stdin.fileno(), zmq.POLLIN)

    def run(self) -> None:
        """Until `Shutdown`, or until the API process is gone."""
        has_work = True
        while True:
            ready = dict(self._poller.poll(0 if has_work else self._longest_sleep_ms()))
            if sys.stdin.fileno() in ready:  # nothing is ever sent there: it was closed
                return
            if self._waker.fd in ready:
                self._waker.drain()
            if not self._take_messages():
                return
            has_work = self._engine.step()

    def _longest_sleep_ms(self) -> int | None:
        seconds = self._engine.longest_sleep_s
        return None if seconds is None else math.ceil(min(seconds, _MAX_SLEEP_S) * 1e3)

    def _take_messages(self) -> bool:
        """Handle all messages that have come. False after `Shutdown`."""
        while self._socket.poll(0):
            message = decode_to_engine(self._socket.recv())
            if isinstance(message, Shutdown):
                return False
            self._engine.handle(message)
        return True


def _motet() -> Build:
    from motet.engine.build import build_engine

    return build_engine


def main(load_build: Callable[[], Build] = _motet) -> int:
    """Run the engine until it is told to end; the exit status is 1 if it could not start.

    Args:
        load_build: imports what builds the engine. It is called when the environment is as torch,
            which reads it while it is imported, has to find it.
    """
    parser = argparse.ArgumentParser(description="The engine process of Motet.")
    parser.add_argument("--socket", required=True, help="ZeroMQ address of the API process")
    address = parser.parse_args().socket
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.set_hwm(0)  # the API process takes every message; none may be dropped
    socket.connect(address)

    def send(message: FromEngine) -> None:
        socket.send(encode(message))

    waker = Waker()
    share_cores()
    build = load_build()
    try:
        engine, ready = build(config, waker.wake, send)
    except MotetError as error:
        send(EngineFailed(error.message, error.code))
        socket.close(linger=5000)
        context.term()
        return 1
    send(ready)
    try:
        EngineLoop(socket, waker, engine).run()
    finally:
        engine.close()
        context.destroy(linger=1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
