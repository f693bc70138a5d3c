"""How late the event loop is: whatever holds it up holds everybody's tokens up.

Owns: the measurement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_INTERVAL_S = 0.25


async def watch_loop_lag(observe: Callable[[float], None]) -> None:
    """Tell `observe` several times a second how late the loop was [seconds]. Never returns."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + _INTERVAL_S
        await asyncio.sleep(_INTERVAL_S)
        observe(max(0.0, loop.time() - due_s))
