"""The tokens of one HTTP request, which may be several sequences in the engine.

Owns: the queue between the engine's messages and whoever answers the client.
Does not know: the socket, text, HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from motet.core.errors import MotetError
from motet.core.messages import TokenOutput

# Of all sequences of one HTTP request together. As many as most answers have, so that those are
# delivered however slow their reader is.
MAX_UNREAD_OUTPUTS = 4096


class Forget(Protocol):
    """Called once for each sequence, when nothing more of it is wanted."""

    def __call__(self, request_id: str, *, is_finished: bool) -> None: ...


class TokenStream:
    """Outputs of a few sequences in the order of their arrival; ends when all have finished.

    A slow reader makes the queue grow, up to a bound. The engine cannot wait for it: a sequence
    that stood still would keep its pages from the others. So beyond the bound the sequences are
    aborted, and after what is in the queue the reader gets an error.

    Attributes:
        has_output: whether any sequence has had an output.
    """

    def __init__(self, request_ids: Sequence[str], forget: Forget) -> None:
        self._unfinished = set(request_ids)
        self._num_unread_ends = len(request_ids)
        self._forget = forget
        self._queue: asyncio.Queue[TokenOutput | MotetError] = asyncio.Queue()
        self.has_output = False

    def push(self, output: TokenOutput) -> None:
        """Take an output of the engine's."""
        if self._queue.qsize() >= MAX_UNREAD_OUTPUTS:
            self.expire(_read_too_slowly())
            return
        self.has_output = True
        self._queue.put_nowait(output)
        if output.finish_reason is not None:
            self._end(output.request_id, is_finished=True)

    def fail(self, request_id: str, error: MotetError) -> None:
        """End a sequence with an error, which ends the whole stream for its reader."""
        self._queue.put_nowait(error)
        self._end(request_id, is_finished=True)

    async def next(self) -> TokenOutput | None:
        """The next output; None after the last.

        Raises:
            MotetError: a sequence failed in the engine, or the engine died.
        """
        if self._num_unread_ends == 0:
            return None
        item = await self._queue.get()
        if isinstance(item, MotetError):
            raise item
        if item.finish_reason is not None:
            self._num_unread_ends -= 1
        return item

    def expire(self, error: MotetError) -> None:
        """End all that runs with an error, after what has come. Nothing happens if all is over."""
        if not self._unfinished:
            return
        for request_id in list(self._unfinished):
            self._end(request_id, is_finished=False)
        self._queue.put_nowait(error)

    def abort(self, request_id: str) -> None:
        """Want no more of one sequence. Nothing happens if it has finished."""
        if request_id in self._unfinished:
            self._end(request_id, is_finished=False)
            self._num_unread_ends -= 1

    def close(self) -> None:
        """Want no more of any."""
        for request_id in list(self._unfinished):
            self.abort(request_id)

    def _end(self, request_id: str, *, is_finished: bool) -> None:
        self._unfinished.discard(request_id)
        self._forget(request_id, is_finished=is_finished)


def _read_too_slowly() -> MotetError:
    return MotetError(
        f"The answer was read too slowly: {MAX_UNREAD_OUTPUTS} tokens were waiting. Read it "
        "faster, or ask for it as a whole.",
        code="client_too_slow",
    )
