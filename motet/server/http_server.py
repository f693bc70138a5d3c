"""uvicorn, ended by one signal after a drain, and by a second one at once.

Owns: what a signal does, and in which order an ending server stops: readiness fails and new
generation requests are refused while it still listens; once the last request has ended, or the
drain's time is up, it closes the listener and the connections.
Does not know: the routes, nor the engine (it is told through `cut_off`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

import structlog
import uvicorn

from motet.server.drain import Drain
from motet.server.http_protocol import BoundedHttpProtocol

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# For the last bytes of answers that have ended, or were cut off.
_CLOSE_TIMEOUT_S = 5

_log = structlog.get_logger()


class HttpServer(uvicorn.Server):
    """A server over an ASGI app.

    Args:
        app: the application.
        drain: begun by the first signal; the app refuses new work by it.
        cut_off: fails what still runs when the drain's time is up.

    Attributes:
        forced_by: the second signal, which ended the server at once; None if none came.
    """

    def __init__(self, app: object, drain: Drain, cut_off: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
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
        self._drain = drain
        self._cut_off = cut_off
        self.forced_by: signal.Signals | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own raises the signal again at the end, before the engine was told to end."""
        loop = asyncio.get_running_loop()
        captured: list[signal.Signals] = []
        with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: none come
            for each in _SIGNALS:
                loop.add_signal_handler(each, self.stop, each)
                captured.append(each)
        try:
            yield
        finally:
            for each in captured:
                loop.remove_signal_handler(each)

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """Drain and end; when called again, end now. May be called from any thread."""
        if self._drain.has_begun:
            self.forced_by = by
            self.force_exit = True
            return
        self._drain.begin()
        _log.info("draining", signal=by.name, num_active=self._drain.num_active)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to close."""
        if self._drain.has_begun and self._may_close():
            self.should_exit = True
        return await super().on_tick(counter)

    def _may_close(self) -> bool:
        if self.force_exit or self._drain.num_active == 0:
            return True
        if self._drain.is_overdue:
            self._cut_off()
            return True
        return False
