"""A lock that is passed on fairly between groups, however many of one group wait.

Owns: whose turn is next.
Does not know: what is done in a turn.
"""

from __future__ import annotations

import asyncio
from collections import deque

Turn = asyncio.Future[None]


class FairTurns:
    """Turns, one at a time. Groups take turns in a circle; within a group, first come first served.

    So whoever floods it waits behind their own, and others wait for one of those turns at most.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: dict[str | None, deque[Turn]] = {}  # the group whose turn is next first

    def num_waiting(self, group: str | None) -> int:
        """How many of a group wait."""
        return len(self._waiting.get(group, ()))

    async def take(self, group: str | None) -> None:
        """Wait for a turn of this group. Call `pass_on` at its end in any case."""
        if not self._is_taken:
            self._is_taken = True
            return
        turn: Turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(turn)
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                self._leave(group, turn)
            else:  # it came just as its waiter gave up
                self.pass_on()
            raise

    def pass_on(self) -> None:
        """End a turn."""
        while self._waiting:
            group, turns = next(iter(self._waiting.items()))
            del self._waiting[group]
            turn = turns.popleft()
            if turns:
                self._waiting[group] = turns  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False

    def _leave(self, group: str | None, turn: Turn) -> None:
        turns = self._waiting.get(group, deque())
        if turn in turns:  # else it was passed over already
            turns.remove(turn)
            if not turns:
                del self._waiting[group]
