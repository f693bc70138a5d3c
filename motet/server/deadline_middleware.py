"""Gives generation requests a deadline, and ends those that nothing else has ended by then.

Owns: the end of a request that hangs outside the engine: in its body, in its tokens, or at a
client that does not read.
Does not know: what runs in the engine (`generate.py` ends that, with a proper last event).
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motet.core.errors import MotetError
from motet.server.config import ServeConfig
from motet.server.context import context_of
from motet.server.deadline import Deadline, requested_timeout_s, timed_out
from motet.server.errors import error_response, status_of

# What a client that reads has time for: to get the event that says why its stream ends.
_LAST_WORDS_S = 5.0


class DeadlineMiddleware:
    """Ends requests at their deadline, and streams a little later."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app = app
        self._max_request_time_s = config.max_request_time_s
        self._max_queue_time_s = config.max_queue_time_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        if not context.is_generation:
            await self._app(scope, receive, send)
            return
        try:
            timeout_s = requested_timeout_s(Headers(scope=scope), self._max_request_time_s)
        except MotetError as refusal:
            await error_response(refusal)(scope, receive, send)
            return
        context.deadline = Deadline(
            context.started_s + self._max_queue_time_s, context.started_s + timeout_s
        )
        await self._run(scope, receive, send, context.deadline)

    async def _run(self, scope: Scope, receive: Receive, send: Send, deadline: Deadline) -> None:
        has_started = False
        loop = asyncio.get_running_loop()

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            if not has_started:
                if timeout.expired():  # its error comes in the place of this
                    return
                has_started = True
                left_s = deadline.seconds_left(has_first_token=True)
                timeout.reschedule(loop.time() + left_s + _LAST_WORDS_S)
            await send(message)

        try:
            left_s = deadline.seconds_left(has_first_token=True)
            async with asyncio.timeout(left_s) as timeout:
                await self._app(scope, receive, send_and_note)
        except TimeoutError:
            if not timeout.expired():
                raise
            if not has_started:
                await error_response(timed_out())(scope, receive, send)
            else:  # returning with half an answer has the server close the connection
                late, context = timed_out(), context_of(scope)
                context.status, context.error_code = status_of(late), late.code
