"""The end of a server: no new work, what runs goes on for a while, then it is cut off.

Owns: whether the server drains, how many generation requests it is answering, and the refusal of
new ones.
Does not know: signals and sockets (`http_server.py`), nor how requests are answered.
"""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Receive, Scope, Send

from motet.server.context import context_of
from motet.server.errors import RETRY_AFTER_S, RetryLaterError, error_response


class Drain:
    """Whether new work is taken, and what is left of the old.

    Args:
        timeout_s: how long requests may go on after `begin`.

    Attributes:
        num_active: generation requests that are being answered.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadline_s: float | None = None
        self.num_active = 0

    @property
    def has_begun(self) -> bool:
        return self._deadline_s is not None

    @property
    def is_overdue(self) -> bool:
        """Whether what still runs must be cut off."""
        return self._deadline_s is not None and time.monotonic() >= self._deadline_s

    def begin(self) -> None:
        """Take no new work from now on."""
        self._deadline_s = time.monotonic() + self._timeout_s

    def require_open(self) -> None:
        """Raises RetryLaterError (`shutting_down`) once the drain has begun."""
        if self.has_begun:
            raise shutting_down()


class DrainMiddleware:
    """Counts generation requests, and refuses new ones during a drain. All others pass."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not context_of(scope).is_generation:
            await self._app(scope, receive, send)
            return
        if self._drain.has_begun:
            await error_response(shutting_down())(scope, receive, send)
            return
        self._drain.num_active += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._drain.num_active -= 1


def shutting_down() -> RetryLaterError:
    """What a request is told that comes too late, or is cut off."""
    return RetryLaterError(
        "The server is shutting down. Send the request again: another instance will take it.",
        code="shutting_down",
        retry_after_s=RETRY_AFTER_S,
    )
