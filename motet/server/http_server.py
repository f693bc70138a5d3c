"""uvicorn on one listener or two, ended by one signal after a drain, and by a second one at once.

Owns: what a signal does, and in which order an ending server stops: readiness fails and new
generation requests are refused while it still listens; once the last request has ended, or the
drain's time is up, it closes the listeners and the connections.
Does not know: the routes, nor the engine (it is told through `cut_off`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import structlog
import uvicorn
from starlette.types import ASGIApp

from motet.server.auth import Surface
from motet.server.drain import Drain
from motet.server.http_protocol import BoundedHttpProtocol

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# For the last bytes of answers that have ended, or were cut off.
_CLOSE_TIMEOUT_S = 5

_log = structlog.get_logger()


class HttpServer:
    """A server over an app for each listener. They begin and end together.

    Args:
        apps: the application, as each listener shows it.
        drain: begun by the first signal; the apps refuse new work by it.
        cut_off: fails what still runs when the drain's time is up.
        on_close: called as each listener closes, to end answers that have no end of their own.

    Attributes:
        forced_by: the second signal, which ended the server at once; None if none came.
    """

    def __init__(
        self,
        apps: dict[Surface, ASGIApp],
        drain: Drain,
        *,
        cut_off: Callable[[], None],
        on_close: Callable[[], None],
    ) -> None:
        self._parts = {
            surface: _Uvicorn(app, self._may_close, on_close) for surface, app in apps.items()
        }
        self._drain = drain
        self._cut_off = cut_off
        self.forced_by: signal.Signals | None = None

    async def serve(
        self, listeners: dict[Surface, socket.socket], on_started: Callable[[], None]
    ) -> None:
        """Serve on bound sockets until a signal, or `stop`, and what runs has ended.

        Args:
            on_started: called once, when requests are taken on all of them.

        Raises:
            OSError: a socket cannot be listened on; then none is any more.
        """
        with _signals_call(self.stop):
            serving = asyncio.gather(
                *(self._serve_one(part, listeners[each]) for each, part in self._parts.items()),
                return_exceptions=True,  # so that the others are waited for
            )
            while not all(part.started for part in self._parts.values()) and not serving.done():
                await asyncio.sleep(0.01)
            if not serving.done():
                on_started()
            for outcome in await serving:
                if outcome is not None:
                    raise outcome

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """Drain and end; when called again, end now. May be called from any thread."""
        if self._drain.has_begun:
            self.forced_by = by
            for part in self._parts.values():
                part.force_exit = True
            return
        self._drain.begin()
        _log.info("draining", signal=by.name, num_active=self._drain.num_active)

    async def _serve_one(self, part: _Uvicorn, listener: socket.socket) -> None:
        try:
            await part.serve(sockets=[listener])
        finally:  # whatever ended it
            for each in self._parts.values():
                each.should_exit = True

    def _may_close(self) -> bool:
        if not self._drain.has_begun:
            return False
        if self.forced_by is not None or self._drain.num_active == 0:
            return True
        if self._drain.is_overdue:
            self._cut_off()
            return True
        return False


class _Uvicorn(uvicorn.Server):
    """uvicorn on one listener, which leaves signals to others and asks them when to close."""

    def __init__(
        self, app: ASGIApp, may_close: Callable[[], bool], on_close: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                http=BoundedHttpProtocol,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=_CLOSE_TIMEOUT_S,
            )
        )
        self._may_close = may_close
        self._on_close = on_close

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own raises the signal again at the end, before the engine was told to end."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to close."""
        if self._may_close():
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener, and wait a little for the connections."""
        self._on_close()
        await super().shutdown(sockets)


@contextlib.contextmanager
def _signals_call(stop: Callable[[signal.Signals], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    captured: list[signal.Signals] = []
    with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: none come
        for each in _SIGNALS:
            loop.add_signal_handler(each, stop, each)
            captured.append(each)
    try:
        yield
    finally:
        for each in captured:
            loop.remove_signal_handler(each)
