"""How late the event loop is: whatever holds it up holds everybody's tokens up.

Owns: the measurement.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

_INTERVAL_S = 0.25


@contextlib.asynccontextmanager
async def watched_loop_lag(observe: Callable[[float], None]) -> AsyncIterator[None]:
    """While the block runs, tell `observe` several times a second how late the loop was [s]."""
    task = asyncio.create_task(_watch(observe), name="loop lag watch")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch(observe: Callable[[float], None]) -> NoReturn:
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + _INTERVAL_S
        await asyncio.sleep(_INTERVAL_S)
        observe(max(0.0, loop.time() - due_s))
