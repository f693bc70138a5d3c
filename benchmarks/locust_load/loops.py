"""When requests are sent: an open and a closed loop.

Owns: the greenlets, the times of sending, and how a loop comes to its end.
Does not know: what is asked, and what is made of the answers.

A loop has ended when it has nothing left to send, or was told to stop, and all that it had sent has
ended. It then says so, once.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from gevent.pool import Group
from locust.exception import StopUser

from benchmarks.locust_load.ask import Ask
from benchmarks.locust_load.client import Outcome, Refused
from benchmarks.locust_load.shapes import Shape
from benchmarks.locust_load.supply import Planned

# Sends a request that was due at a time of `time.perf_counter()`, and reports what came of it.
Send = Callable[[Ask, float], Outcome]


class Loop(Protocol):
    """What locust's users play."""

    def play(self) -> None:
        """One user's next part. Raises StopUser when there is none."""

    def stop(self, grace_s: float) -> None:
        """Send nothing more, and give up what has not ended after a time. Returns at its end."""


class OpenLoop:
    """Sends each request at its time, whether or not others have been answered.

    One user plays it, but requests run in greenlets of their own.

    Args:
        planned: in the order of their times.
        write: makes the request itself.
        shape: of the load; the times are those at factor one.
        on_end: called once, at the end.
    """

    def __init__(
        self,
        planned: Iterable[Planned],
        write: Callable[[Planned], Ask],
        send: Send,
        shape: Shape | None,
        on_end: Callable[[], None],
    ) -> None:
        self._planned = planned
        self._write = write
        self._send = send
        self._shape = shape
        self._on_end = on_end
        self._stopping = Event()
        self._ended = Event()
        self._running = Group()
        self._follows: dict[tuple[int, int], Event] = {}  # of those that have not ended

    def play(self) -> None:
        """Send everything, and wait for all answers."""
        try:
            self._send_all(time.perf_counter())
            self._running.join()
        finally:
            # Only if this greenlet was killed is there something left.
            self._running.kill()
            if not self._ended.is_set():
                self._ended.set()
                self._on_end()
        raise StopUser

    def stop(self, grace_s: float) -> None:
        self._stopping.set()
        if not self._running.join(grace_s):
            self._running.kill()

    def _send_all(self, start_s: float) -> None:
        for planned in self._planned:
            at_s = planned.at_s if self._shape is None else self._shape.time_of(planned.at_s)
            if at_s is None:
                return
            ask = self._write(planned)  # before it is due
            due_s = start_s + at_s
            gevent.sleep(0)  # if all are late, the others must get on nevertheless
            if self._stopping.wait(max(0.0, due_s - time.perf_counter())):
                return
            self._follows[planned.key] = Event()
            self._running.spawn(self._send_one, planned, ask, due_s)

    def _send_one(self, planned: Planned, ask: Ask, due_s: float) -> None:
        try:
            before = None if planned.after is None else self._follows.get(planned.after)
            if before is not None:
                before.wait()
                due_s = time.perf_counter()
                if self._stopping.is_set():
                    return
            self._send(ask, due_s)
        finally:
            self._follows.pop(planned.key).set()


class ClosedLoop:
    """Each user asks one thing after another.

    Args:
        conversations: what a user asks in a row.
        think_time_s: how long a user waits after an answer. One who is refused waits for as long
            as the server says.
        on_end: called once, at the end.
    """

    def __init__(
        self,
        conversations: Iterator[Iterable[Ask]],
        send: Send,
        think_time_s: float,
        on_end: Callable[[], None],
    ) -> None:
        self._conversations = conversations
        self._send = send
        self._think_time_s = think_time_s
        self._on_end = on_end
        self._stopping = Event()
        self._ended = Event()
        self._is_used_up = False
        self._drawing = BoundedSemaphore()
        self._users: set[gevent.Greenlet] = set()

    def play(self) -> None:
        """One conversation."""
        user = gevent.getcurrent()
        self._users.add(user)
        try:
            conversation = self._next()
            if conversation is None:
                raise StopUser
            for ask in conversation:
                self._ask(ask)
                if self._stopping.is_set():
                    return
        finally:
            self._users.remove(user)
            self._end_if_done()

    def stop(self, grace_s: float) -> None:
        self._stopping.set()
        self._end_if_done()
        if not self._ended.wait(grace_s):
            gevent.killall(list(self._users))

    def _next(self) -> Iterable[Ask] | None:
        # A workload that has to be drawn first lets other users run, who must not draw as well.
        with self._drawing:
            if self._is_over:
                return None
            conversation = next(self._conversations, None)
            self._is_used_up = conversation is None
            return conversation

    def _ask(self, ask: Ask) -> None:
        outcome = self._send(ask, time.perf_counter())
        refused_s = outcome.retry_after_s if isinstance(outcome, Refused) else 0.0
        self._stopping.wait(max(self._think_time_s, refused_s))

    def _end_if_done(self) -> None:
        if self._is_over and not self._users and not self._ended.is_set():
            self._ended.set()
            self._on_end()

    @property
    def _is_over(self) -> bool:
        return self._is_used_up or self._stopping.is_set()
