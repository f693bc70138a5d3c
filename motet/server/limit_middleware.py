"""Keeps each key within its limits, and tells it in headers what is left of them.

Owns: what every key has used, and the headers `x-ratelimit-*`.
Does not know: what is counted and when it is too much (`allowance.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motet.server.allowance import Allowance, KeyUsage
from motet.server.context import context_of
from motet.server.errors import RetryLaterError, error_response
from motet.server.keys import KeyLimits


class LimitMiddleware:
    """Refuses requests beyond the limits of their key."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        self._usages: dict[str, KeyUsage] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        limits, key_id = context.limits, context.principal.key_id
        if limits is None or key_id is None:
            await self._app(scope, receive, send)
            return
        usage = self._usage_of(key_id)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(limit_headers(usage, limits))
            await send(message)

        try:
            allowance = Allowance(usage, limits)
        except RetryLaterError as refusal:
            await error_response(refusal)(scope, receive, send_with_limits)
            return
        context.allowance = allowance
        try:
            await self._app(scope, receive, send_with_limits)
        finally:
            allowance.end()

    def _usage_of(self, key_id: str) -> KeyUsage:
        if key_id not in self._usages:
            # Of keys that have been revoked nothing must stay for ever.
            idle = [each for each, usage in self._usages.items() if usage.is_idle]
            for each in idle:
                del self._usages[each]
            self._usages[key_id] = KeyUsage(self._clock)
        return self._usages[key_id]


def limit_headers(usage: KeyUsage, limits: KeyLimits) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*`, for those limits that there are."""
    headers = {}
    for what, limit, window in (
        ("requests", limits.requests_per_minute, usage.requests),
        ("tokens", limits.tokens_per_minute, usage.tokens),
    ):
        if limit is not None:
            headers[f"x-ratelimit-limit-{what}"] = str(limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(0, limit - window.used))
            headers[f"x-ratelimit-reset-{what}"] = f"{math.ceil(window.reset_s())}s"
    return headers
