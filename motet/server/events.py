"""What has happened to adapters, for those who watch.

Owns: a bounded log of events, and the wait for the next.
Does not know: HTTP (`admin_events.py`), nor what an event means.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

MAX_EVENTS = 1024


_ID = re.compile(r"(?P<run>[0-9a-f]+)-(?P<number>[0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; `number` counts from the start of the server."""

    number: int
    kind: str
    data: dict[str, Any]


class EventLog:
    """The last events, and all that come. Ids of another run of the server are recognised."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(4)
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._num_events = 0
        self._news = asyncio.Event()
        self._is_closed = False

    def add(self, kind: str, data: dict[str, Any]) -> None:
        """Something has happened."""
        self._num_events += 1
        self._events.append(Event(self._num_events, kind, data))
        self._wake()

    def close(self) -> None:
        """Nothing more will happen: end what follows, or a shutdown would wait for it."""
        self._is_closed = True
        self._wake()

    def id_of(self, event: Event) -> str:
        """What a client sends back as `Last-Event-ID` to go on after this event."""
        return f"{self._run}-{event.number}"

    def position(self, last_event_id: str | None) -> int:
        """The number of the last event that a client has seen.

        Without an id it is the newest one's. An id of another run says that everything that is
        known is news.
        """
        if last_event_id is None:
            return self._num_events
        match = _ID.fullmatch(last_event_id)
        return int(match["number"]) if match and match["run"] == self._run else 0

    async def after(self, position: int) -> AsyncIterator[Event]:
        """The events after this one that are still known, then each as it comes."""
        while True:
            news = self._news
            for event in [each for each in self._events if each.number > position]:
                position = event.number
                yield event
            if self._is_closed:
                return
            await news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
