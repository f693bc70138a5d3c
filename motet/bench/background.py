"""Coroutines beside others.

Owns: that none outlives what it was started for.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have it run while the block does. What it raises is raised when the block has ended."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await _cancelled(task)
    if not task.cancelled():
        task.result()


async def finished_before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Wait until the work is done, or `stop` is set, and the work cancelled: then False.

    What the work raises is raised.
    """
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancelled(working)
        await _cancelled(stopping)
    if working.cancelled():
        return False
    working.result()
    return True


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task that may still run, and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])
