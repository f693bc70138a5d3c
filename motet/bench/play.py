"""When the requests of a workload are sent.

Owns: the two orders of play, and that a request waits for the one that it comes after.
Does not know: what a request is, beyond its time and whom it comes after, and what is sent.

Open loop: each request is sent when its time has come, whatever has become of the others, as by
many users who do not know of each other. Closed loop: so many clients, each of which sends its next
request when its last one has ended; the times of the workload do not count.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from motet.bench.workload import WorkRequest

# Sends a request that is due at this time, and returns when it has ended. It raises nothing.
Send = Callable[[WorkRequest, float], Awaitable[None]]


class Player:
    """Plays requests.

    Args:
        now_s: seconds from the start.

    Raises:
        ValueError: a request is to come after one that is not before it.
    """

    def __init__(
        self, requests: Sequence[WorkRequest], send: Send, now_s: Callable[[], float]
    ) -> None:
        self._requests = requests
        self._send = send
        self._now_s = now_s
        self._ended = _awaited(requests)

    async def play_open(self) -> None:
        """Send each at its time; returns when all have ended."""
        async with asyncio.TaskGroup() as group:
            for request in self._requests:
                # Also when the time is over: the tasks that were made have to get their turn.
                await asyncio.sleep(max(0.0, request.arrival_s - self._now_s()))
                group.create_task(self._play(request, request.arrival_s))

    async def play_closed(self, num_clients: int) -> None:
        """Send them in their order, `num_clients` at a time; returns when all have ended."""
        left = iter(self._requests)

        async def serve() -> None:
            for request in left:
                await self._play(request, self._now_s())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(num_clients, len(self._requests))):
                group.create_task(serve())

    async def _play(self, request: WorkRequest, due_s: float) -> None:
        if request.after is not None and not self._ended[request.after].is_set():
            await self._ended[request.after].wait()
            due_s = max(due_s, self._now_s())
        await self._send(request, due_s)
        if request.index in self._ended:
            self._ended[request.index].set()


def _awaited(requests: Sequence[WorkRequest]) -> dict[int, asyncio.Event]:
    """What tells that a request has ended, for each that others come after."""
    known: set[int] = set()
    events: dict[int, asyncio.Event] = {}
    for request in requests:
        if request.after is not None:
            if request.after not in known:
                raise ValueError(
                    f"Request {request.index} is to come after {request.after}, which is not among "
                    "those before it."
                )
            events.setdefault(request.after, asyncio.Event())
        known.add(request.index)
    return events
