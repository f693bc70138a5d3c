"""Work that several requests want at once, done once.

Owns: the tasks of such work while they run.
Does not know: what the work is, nor its results once it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

ResultT = TypeVar("ResultT")


class SingleFlight(Generic[ResultT]):
    """At most one run for each key at a time; whoever comes meanwhile waits for that one."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[ResultT]] = {}

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """The result of the work that runs for `key`, which is started if there is none.

        Whoever is cancelled leaves the work running for the others. Raises what the work raises.
        """
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)

    def _end(self, key: str, task: asyncio.Task[ResultT]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # all who waited may have left; it is no error to be logged
